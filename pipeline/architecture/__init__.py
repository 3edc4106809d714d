"""The sizes of MARS: `MarsConfig`, the transformers config that is saved with the weights, known sizes by name,
and which positions see which others. Imports `pipeline.config` and transformers."""
