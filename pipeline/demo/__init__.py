"""What is particular to the demo. Here its corpora are made, with `runs` and `tokenization.demo`; `scoring` scores what
was learned of them."""
