"""The image tokenizer: formats of published VQ-GANs, model, training, quality. Imports `config`, `corpora` and
`files`."""
