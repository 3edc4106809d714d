"""Reading corpora and decoding pictures: one module a format, all giving `Sample`; a corpus of noise. Imports `config`
and `files`."""
