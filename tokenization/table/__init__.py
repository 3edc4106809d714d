"""The token table, the interface to `pipeline`: schema, shards, manifest, statistics. Imports `corpora` and
`files`."""
