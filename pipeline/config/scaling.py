"""The workers of a training job."""

from dataclasses import dataclass, field

from tokenization.config.checks import below, impossible_resources
from tokenization.config.node_labels import NodeNeeds, impossible_selector

LOADERS = ("auto", "thread", "process")
"""Where the samples of the next step are built."""


@dataclass(frozen=True)
class ScalingConfig:
    """The workers of a training job.

    Attributes:
        num_workers: ranks, one process each.
        min_workers: if the cluster cannot hold `num_workers`, training continues with at least this many, and later
            grows back; 0 for exactly `num_workers`. The global batch size does not change.
        use_gpu: one GPU per rank.
        cpus_per_worker: CPUs per rank; also the number of its threads when it computes on a CPU.
        loader: where a rank builds its samples, one of `LOADERS`. `process` takes 0.4 GB of host memory a rank, and
            leaves the interpreter to the thread that launches kernels; `auto`: `process` on GPUs, `thread` on CPUs.
        wait_for_all_s: with `min_workers`, seconds that an attempt waits for all workers before it starts with fewer.
        grow_after_s: with `min_workers`, seconds that fewer workers train before they save and stop, to restart with
            more.
        max_retries: consecutive attempts that may end without a new checkpoint before the stage fails.
        async_validation: validate and draw samples from checkpoints, in one more process, while the workers train on.
            It has a GPU of its own if `use_gpu`; otherwise it takes no CPU of the cluster, and runs with the lowest
            priority. A checkpoint is written whenever a validation or samples are due.
        label_selector: conditions on the labels of the nodes that ranks run on, as Ray's label selectors have them:
            {"ray.io/market-type": "spot"}, `"!spot"` for others, `"in(spot,on-demand)"` for several. Generators keep
            to the same nodes.
        custom_resources: Ray's custom resources that each rank asks for; the older way to keep it on some nodes.
    """

    num_workers: int = 2
    min_workers: int = 0
    use_gpu: bool = False
    cpus_per_worker: int = 1
    loader: str = "auto"
    wait_for_all_s: float = 120.0
    grow_after_s: float = 600.0
    max_retries: int = 3
    async_validation: bool = False
    label_selector: dict[str, str] = field(default_factory=dict)
    custom_resources: dict[str, float] = field(default_factory=dict)

    @property
    def loader_process(self) -> bool:
        """True if a rank's samples are built in a process of their own."""
        return self.loader == "process" or (self.loader == "auto" and self.use_gpu)

    @property
    def num_cpus(self) -> int:
        """CPUs of all workers."""
        return self.num_workers * self.cpus_per_worker

    @property
    def num_gpus(self) -> int:
        """GPUs of all workers."""
        return self.num_workers if self.use_gpu else 0

    @property
    def worker_resources(self) -> dict[str, float]:
        """Resources of one worker, by Ray's names."""
        own = {"CPU": float(self.cpus_per_worker)} | ({"GPU": 1.0} if self.use_gpu else {})
        return own | self.custom_resources

    @property
    def worker_needs(self) -> NodeNeeds:
        """What one worker needs of its node."""
        return NodeNeeds(self.worker_resources, self.label_selector)

    @property
    def validator_needs(self) -> NodeNeeds:
        """What the process that validates beside the workers needs of its node."""
        return self.worker_needs if self.use_gpu else NodeNeeds({"CPU": 0.0}, self.label_selector)

    def problems(self) -> list[str]:
        """Returns the reasons why the settings are invalid; empty if they are valid."""
        found = below(1, self, ("num_workers", "cpus_per_worker"))
        found += below(0, self, ("min_workers", "wait_for_all_s", "grow_after_s", "max_retries"))
        if self.loader not in LOADERS:
            found.append(f"loader is {self.loader!r}, but must be one of {', '.join(LOADERS)}")
        if self.min_workers > self.num_workers:
            found.append(f"min_workers is {self.min_workers}, but must be at most num_workers, {self.num_workers}")
        found += impossible_selector("label_selector", self.label_selector)
        return found + impossible_resources("custom_resources", self.custom_resources)
