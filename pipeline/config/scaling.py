"""The workers of a training job."""

from dataclasses import dataclass, field

from pipeline.config.checks import at_least


@dataclass(frozen=True)
class ScalingConfig:
    """The workers of a training job.

    Attributes:
        num_workers: ranks, one process each.
        min_workers: where the cluster cannot hold all of them, training goes on with at least so many, and grows back;
            0 for exactly `num_workers`. The global batch size stays.
        use_gpu: one GPU a rank.
        cpus_per_worker: also the threads a rank computes with on a CPU.
        wait_for_all_s: with `min_workers`, seconds that an attempt waits for all workers before it starts with fewer.
        grow_after_s: with `min_workers`, seconds that fewer workers train before they stop for more, with a checkpoint.
        max_retries: attempts in a row that may end without a new checkpoint before the stage is given up.
        custom_resources: Ray's custom resources that each rank asks for, to keep it on some nodes.
    """

    num_workers: int = 2
    min_workers: int = 0
    use_gpu: bool = False
    cpus_per_worker: int = 1
    wait_for_all_s: float = 120.0
    grow_after_s: float = 600.0
    max_retries: int = 3
    custom_resources: dict[str, float] = field(default_factory=dict)

    @property
    def num_cpus(self) -> int:
        """Of all workers."""
        return self.num_workers * self.cpus_per_worker

    @property
    def num_gpus(self) -> int:
        """Of all workers."""
        return self.num_workers if self.use_gpu else 0

    @property
    def worker_resources(self) -> dict[str, float]:
        """What one worker holds, by Ray's names."""
        own = {"CPU": float(self.cpus_per_worker)} | ({"GPU": 1.0} if self.use_gpu else {})
        return own | self.custom_resources

    def problems(self) -> list[str]:
        """What makes it impossible; empty where nothing does."""
        found = at_least(1, self, ("num_workers", "cpus_per_worker"))
        found += at_least(0, self, ("min_workers", "wait_for_all_s", "grow_after_s", "max_retries"))
        if self.min_workers > self.num_workers:
            found.append(f"min_workers is {self.min_workers}, it must be at most num_workers, {self.num_workers}")
        return found
