"""Settings of tokenization and of the VQ-GAN, as frozen dataclasses. Imports the standard library alone."""
