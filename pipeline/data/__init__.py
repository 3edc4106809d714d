"""Turns token shards into micro-batches: rows, order, sequences, packing, collation, a step's plan. Imports `config`,
`model` and the token table."""
