"""The token table, which is the contract with `pipeline`: schema, shards, manifest, statistics. Imports `corpora` and
`files`."""
