"""The name by which model cards import `ImageTokenizer`; it lives in `tokenization.vqgan.image_tokenizer`."""

from tokenization.vqgan.image_tokenizer import ImageTokenizer as ImageTokenizer
