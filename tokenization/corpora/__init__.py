"""Reading corpora: one module a layout, all giving `Sample`, and decoding pictures. Imports `config` and `files`."""
