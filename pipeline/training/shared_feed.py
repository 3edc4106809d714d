"""Starts the loaders of a group of ranks, and lets its nodes share the reading of the corpus."""

import os
import secrets
import socket

import torch.distributed as dist

from pipeline.data.loader import Loader, ProcessLoader, ThreadLoader
from pipeline.data.node_feed import MakePlan
from pipeline.data.peers import Nodes
from pipeline.runtime.agreement import from_every_rank, from_first_rank
from pipeline.runtime.rank import Rank

ANY_PORT = 9
"""Port of an address that is only routed to: nothing is sent."""


def start_loader(make_plan: MakePlan, in_process: bool) -> Loader:
    """Returns this rank's loader. All ranks call it; `make_plan` must be picklable for a process."""
    if not in_process:
        return ThreadLoader(make_plan(), dist.get_rank(), dist.get_world_size())
    return ProcessLoader(make_plan, this_rank(), f"mars-loader-{from_first_rank(secrets.token_hex(8))}")


def share_reading(loader: Loader) -> None:
    """Lets the nodes share the reading of the corpus, if there are several. All ranks call it."""
    rank = this_rank()
    if not isinstance(loader, ProcessLoader) or rank.local_world_size == rank.world_size:
        return
    secret = from_first_rank(secrets.token_hex(16))
    own = loader.serve(_address(), secret) if rank.local_rank == 0 else ""
    servers = {number: place for number, place in enumerate(from_every_rank(own)) if place}
    if rank.local_rank == 0:
        loader.share(Nodes(list(servers).index(rank.rank), list(servers.values()), secret))


def this_rank() -> Rank:
    """The rank of this process, as `set_up_process` and `torch.distributed` have it."""
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_SIZE", "1"))
    return Rank(dist.get_rank(), dist.get_world_size(), local_rank, local_size)


def _address() -> str:
    """This node's address as the first rank's node sees it, by which the group was made."""
    host = os.environ.get("MASTER_ADDR", "localhost")
    family, _, _, _, place = socket.getaddrinfo(host, ANY_PORT, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(place)
        return str(probe.getsockname()[0])
