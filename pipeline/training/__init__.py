"""One stage on its ranks, without Ray: engine, objective, step, loop, guards, validation, trackers. Imports
`checkpoints`, `data`, `generation` and `model`."""
