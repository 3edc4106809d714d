"""Predicts the seconds of a training step from its phases: what a rank computes, what its host does, and what its
collectives move. It knows neither GPUs nor recipes, so that measured steps on any device can be compared with it.

In a phase, the device computes, the host prepares what comes next, and collectives move weights and gradients, all at
the same time: the phase takes as long as the slowest of them. What cannot overlap is added: the first weights that a
phase gathers, and the last gradients that it reduces.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Traffic:
    """The collectives of a phase, as whole tensors: bytes that are gathered or reduced, not those on the wire.

    Attributes:
        inside_bytes, inside_calls: of collectives among the ranks of a node.
        across_bytes, across_calls: of collectives among all ranks, if they are on several nodes.
    """

    inside_bytes: float = 0.0
    inside_calls: float = 0.0
    across_bytes: float = 0.0
    across_calls: float = 0.0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(
            self.inside_bytes + other.inside_bytes,
            self.inside_calls + other.inside_calls,
            self.across_bytes + other.across_bytes,
            self.across_calls + other.across_calls,
        )

    def __mul__(self, factor: float) -> "Traffic":
        return Traffic(
            self.inside_bytes * factor,
            self.inside_calls * factor,
            self.across_bytes * factor,
            self.across_calls * factor,
        )


@dataclass(frozen=True)
class LinkRates:
    """The links between the ranks.

    Attributes:
        ranks, ranks_per_node: number of ranks, and of those on one node.
        inside_bytes_per_s: bytes that a rank receives from its node's other ranks in a second.
        between_bytes_per_s: bytes that a node receives from other nodes in a second, over all its network interfaces.
        inside_call_s, across_call_s: seconds that a collective takes before its first bytes arrive.
    """

    ranks: int
    ranks_per_node: int
    inside_bytes_per_s: float
    between_bytes_per_s: float
    inside_call_s: float
    across_call_s: float

    @property
    def nodes(self) -> int:
        return -(-self.ranks // self.ranks_per_node)

    def inside_seconds(self, traffic: Traffic) -> float:
        """Seconds on the links inside a node. Collectives among all ranks use them as well, as rings do."""
        inside = traffic.inside_bytes * (1 - 1 / min(self.ranks, self.ranks_per_node))
        across = traffic.across_bytes * (1 - 1 / self.ranks) if self.ranks_per_node > 1 else 0.0
        return (inside + across) / self.inside_bytes_per_s + traffic.inside_calls * self.inside_call_s

    def between_seconds(self, traffic: Traffic) -> float:
        """Seconds on the network between nodes, of which a ring brings each byte into each node once."""
        if self.nodes == 1:
            return 0.0
        received = traffic.across_bytes * (1 - 1 / self.ranks)
        return received / self.between_bytes_per_s + traffic.across_calls * self.across_call_s


@dataclass(frozen=True)
class Phase:
    """A part of a step in which compute, host and collectives overlap.

    Attributes:
        name: `forward`, `backward`, or `update`.
        compute_s: seconds of the device's kernels.
        host_s: seconds that the host needs to launch them.
        gathers, reductions: collectives of the phase.
        exposed: those of them that wait for nothing else to overlap with.
    """

    name: str
    compute_s: float
    host_s: float
    gathers: Traffic = Traffic()
    reductions: Traffic = Traffic()
    exposed: Traffic = Traffic()


@dataclass(frozen=True)
class Overlap:
    """How well a platform overlaps.

    Attributes:
        gathers, reductions: the collectives run while the device computes; if not, their time is added.
        slowdown: share by which kernels slow down while collectives run.
        between_steps_s: seconds between a step's last kernel and the next one's first, besides the update: decisions
            that all ranks take together, and figures that the host waits for.
    """

    gathers: bool = True
    reductions: bool = True
    slowdown: float = 0.0
    between_steps_s: float = 0.0


@dataclass(frozen=True)
class StepTime:
    """A predicted step. `binds` names what most of its time is spent on: `compute`, `host`, `links inside nodes`,
    `network` or `exposed`."""

    seconds: float
    compute_s: float
    by_cause: dict[str, float]

    @property
    def binds(self) -> str:
        return max(self.by_cause, key=lambda name: self.by_cause[name])


def step_time(phases: list[Phase], links: LinkRates, overlap: Overlap) -> StepTime:
    """Returns the seconds of a step that consists of the phases, one after the other."""
    causes: dict[str, float] = dict.fromkeys(("compute", "host", "links inside nodes", "network", "exposed"), 0.0)
    causes["exposed"] = overlap.between_steps_s
    computed = 0.0
    for phase in phases:
        hidden, added = Traffic(), phase.exposed
        for traffic, overlaps in ((phase.gathers, overlap.gathers), (phase.reductions, overlap.reductions)):
            hidden, added = (hidden + traffic, added) if overlaps else (hidden, added + traffic)
        inside_s, between_s = links.inside_seconds(hidden), links.between_seconds(hidden)
        slowed = phase.compute_s + overlap.slowdown * min(phase.compute_s, max(inside_s, between_s))
        parts = {"compute": slowed, "host": phase.host_s, "links inside nodes": inside_s, "network": between_s}
        cause = max(parts, key=lambda name: parts[name])
        causes[cause] += parts[cause]
        causes["exposed"] += max(links.inside_seconds(added), links.between_seconds(added))
        computed += phase.compute_s
    return StepTime(sum(causes.values()), computed, causes)
