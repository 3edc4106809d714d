"""FLOP, memory and work of a stage before it runs, and the plan of a recipe. Imports `config`, `data` and `model`."""
