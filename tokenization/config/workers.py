"""The actors of tokenization: their number and their resources."""

from dataclasses import dataclass, field

from tokenization.config.checks import below, impossible_resources
from tokenization.config.node_labels import NodeNeeds, impossible_selector

READER_CPUS = 0.25
"""CPUs that a reading actor requests. An encoding actor requests this much less than one CPU, so that there is room for
readers even with one encoder per core."""


@dataclass(frozen=True)
class Workers:
    """The actors of a tokenization job.

    Attributes:
        num_encoders: actors that encode, each with one GPU if `use_gpu`, else one CPU.
        max_readers: maximum actors that read and decode; 0 for as many as the cluster has CPUs.
        use_gpu: encode on GPUs.
        compile_encoder: on GPUs, `torch.compile` the encoder, which takes a minute per actor and shape.
        large_shard_bytes: the pictures of a shard of at least this size are decoded by several actors.
        reader_label_selector, encoder_label_selector: conditions on the labels of the nodes that actors run on, as
            Ray's label selectors have them: {"ray.io/node-group": "cpu"}.
        reader_resources, encoder_resources: custom resources that each actor requests; the older way to keep it on some
            nodes.
    """

    num_encoders: int = 1
    max_readers: int = 0
    use_gpu: bool = False
    compile_encoder: bool = True
    large_shard_bytes: int = 2 << 30
    reader_label_selector: dict[str, str] = field(default_factory=dict)
    encoder_label_selector: dict[str, str] = field(default_factory=dict)
    reader_resources: dict[str, float] = field(default_factory=dict)
    encoder_resources: dict[str, float] = field(default_factory=dict)

    def problems(self) -> list[str]:
        """Returns the reasons why the settings are invalid; empty if they are valid."""
        found = below(1, self, ("num_encoders",)) + below(0, self, ("max_readers", "large_shard_bytes"))
        found += impossible_selector("reader_label_selector", self.reader_label_selector)
        found += impossible_selector("encoder_label_selector", self.encoder_label_selector)
        found += impossible_resources("reader_resources", self.reader_resources)
        return found + impossible_resources("encoder_resources", self.encoder_resources)

    @property
    def reader_needs(self) -> NodeNeeds:
        """What each reading actor needs of its node."""
        return NodeNeeds({"CPU": READER_CPUS} | self.reader_resources, self.reader_label_selector)

    @property
    def encoder_needs(self) -> NodeNeeds:
        """What each encoding actor needs of its node."""
        own = {"CPU": 1 - READER_CPUS} | ({"GPU": 1} if self.use_gpu else {})
        return NodeNeeds(own | self.encoder_resources, self.encoder_label_selector)
