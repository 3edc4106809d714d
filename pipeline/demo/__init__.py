"""Makes the demo's corpora if they are missing. Imports `runs` and `tokenization.demo`."""
