"""The demo's own corpora: drawings with their names, and illustrated lists of them. Imports `corpora` and `files`."""
