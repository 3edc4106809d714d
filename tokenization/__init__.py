"""From an image-text corpus to token shards: reading, pictures, VQ-GAN, text vocabulary, the token table."""
