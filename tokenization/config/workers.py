"""Who tokenizes: how many actors, and on what."""

from dataclasses import dataclass, field

READER_CPUS = 0.25
"""CPUs that a reading actor asks for, and leaves of each encoding one: so as many encoders as cores have readers."""


@dataclass(frozen=True)
class Workers:
    """Who does the work.

    Attributes:
        num_encoders: actors that encode, each with one GPU where `use_gpu`, else one CPU.
        max_readers: actors that read and decode; 0 for as many as the cluster has CPUs.
        use_gpu: encode on GPUs.
        compile_encoder: on GPUs, `torch.compile` the encoder, which takes a minute an actor and shape.
        reader_resources, encoder_resources: custom resources that each actor asks for, to keep it on some nodes.
    """

    num_encoders: int = 1
    max_readers: int = 0
    use_gpu: bool = False
    compile_encoder: bool = True
    reader_resources: dict[str, float] = field(default_factory=dict)
    encoder_resources: dict[str, float] = field(default_factory=dict)

    @property
    def reader_actor(self) -> dict[str, float]:
        """What each reading actor asks Ray for, by Ray's names."""
        return {"CPU": READER_CPUS} | self.reader_resources

    @property
    def encoder_actor(self) -> dict[str, float]:
        """What each encoding actor asks Ray for, by Ray's names."""
        return {"CPU": 1 - READER_CPUS} | ({"GPU": 1} if self.use_gpu else {}) | self.encoder_resources
