"""The demo's corpora, made where they are missing. Imports `runs` and `tokenization.demo`."""
