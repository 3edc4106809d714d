"""A checkpoint as a Hugging Face folder, and checks that it belongs to its language expert. Imports `checkpoints`,
`model` and `weights`."""
