"""Reading corpora: one module a layout, all giving `Sample`; decoding pictures; a corpus of noise. Imports `config` and
`files`."""
