"""SemVIE: attention, layers, head, loss, and the transformers classes, which importing this package registers with the
Auto classes. Imports `config` and `weights`."""

from pipeline.model.mars import MarsConfig as MarsConfig
from pipeline.model.mars import MarsForCausalLM as MarsForCausalLM
