"""Every setting of a run as frozen dataclasses, GPU types and tasks included. Imports the standard library and
`tokenization.config` alone."""
