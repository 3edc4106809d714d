"""A stage on Ray: its inputs checked, Ray Train, attempts, the monitor actor, Prometheus. Imports `training`, `runs`
and `runtime`."""
