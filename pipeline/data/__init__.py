"""From token shards to micro-batches: rows, order, sequences, packing, collation, the plan of a step. Imports `config`,
`model` and the token table."""
