"""Generation with a model: sampling, static-cache decoder, pictures, captions, documents, the Ray Data actor.
Imports `data`, `model` and `export`."""

from pipeline.generation.pictures import generate_codes as generate_codes
