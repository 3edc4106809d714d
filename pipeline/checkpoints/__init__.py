"""Sharded, verified checkpoints: manifest, slices, writer, owner, resume at any number of ranks. Imports `errors`,
`pipeline.runtime` and `tokenization.files`."""
