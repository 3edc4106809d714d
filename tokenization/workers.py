"""Who tokenizes: how many actors, and on what."""

from dataclasses import dataclass, field


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
