"""Settings of a server of a trained model."""

from dataclasses import dataclass, field

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MIN_TOKEN_LENGTH = 16


@dataclass(frozen=True)
class ServingLimits:
    """What one request, one client and all of them may ask for.

    Attributes:
        max_outstanding: pictures, captions and documents that wait or are made at once; a request beyond it is refused
            with 429.
        max_pictures: pictures of one request.
        max_document_pictures, max_document_text_ids: of one illustrated document.
        max_document_prompt_ids: text ids that a document begins with.
        max_body_bytes: bytes of a request's body.
        requests_per_minute: of one client address; 0 for no limit.
        request_timeout_s: seconds after which a request is given up.
    """

    max_outstanding: int = 64
    max_pictures: int = 8
    max_document_pictures: int = 4
    max_document_text_ids: int = 256
    max_document_prompt_ids: int = 64
    max_body_bytes: int = 20_000_000
    requests_per_minute: int = 600
    request_timeout_s: float = 600.0


@dataclass(frozen=True)
class ServerSettings:
    """A server on Ray Serve.

    Attributes:
        host, port: where it listens.
        batch_size: pictures, captions and documents that a replica makes at once.
        min_replicas, max_replicas: replicas of the model; between them their number follows the queue.
        cpus_per_replica: CPUs of a replica.
        use_gpu: a replica takes a GPU.
        label_selector: conditions on the labels of the nodes that replicas run on, see `ScalingConfig`.
        follow_s: seconds between two looks for a newer checkpoint; 0 never looks.
        log_prompts: write prompts into the log.
        limits: limits of requests.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    batch_size: int = 16
    min_replicas: int = 1
    max_replicas: int = 1
    cpus_per_replica: float = 1.0
    use_gpu: bool = False
    label_selector: dict[str, str] = field(default_factory=dict)
    follow_s: float = 10.0
    log_prompts: bool = False
    limits: ServingLimits = ServingLimits()
