"""The sizes of MARS: `MarsConfig`, the transformers config that is saved with the weights, and known sizes by name.
Imports `pipeline.config` and transformers."""
