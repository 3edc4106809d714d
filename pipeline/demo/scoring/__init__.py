"""What scores the demo's drawings, and shows the scores. Imports `evaluation` and `tokenization.demo`."""
