"""A trained model behind HTTP on Ray Serve: replicas with continuous batching, OpenAI's interface, a page.
Imports `generation`, `export`, `data` and `runs`."""
