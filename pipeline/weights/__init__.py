"""Weight files in and out: tensors in pieces, formats of language experts, the starting model. Imports `config` and
`tokenization.files`."""
