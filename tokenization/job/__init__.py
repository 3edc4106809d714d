"""The Ray Data job: rows, actors that read, encode and write, the driver, its benchmark. Imports every other package of
`tokenization`."""
