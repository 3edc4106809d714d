"""The module from which model cards import `ImageTokenizer`, defined in `tokenization.vqgan.image_tokenizer`."""

from tokenization.vqgan.image_tokenizer import ImageTokenizer as ImageTokenizer
