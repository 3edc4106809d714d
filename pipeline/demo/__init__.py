"""What is particular to the demo: its corpora made, its drawings found and scored. Imports `evaluation`, `pages` and
`tokenization.demo`."""
