"""Reads from NCCL's log which network it has taken. Written after logs that others published; not run on a GPU."""

import glob
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LOG_PREFIX = "/tmp/mars-preflight-"
AMAZON_VENDOR = "0x1d0f"
"""Amazon's PCI vendor id, which EFA devices have."""
PLUGIN_NAMES = ("AWS Libfabric", "Libfabric", "OFI")
"""What EFA's plugin calls itself: the first up to version 1.11, and later where NCCL_NET asks for it (aws/aws-ofi-nccl,
pull request 530)."""


@dataclass(frozen=True)
class Network:
    """The network between nodes, according to NCCL's log.

    Attributes:
        name: the network, as in `Socket`, `IB` or `Libfabric`; empty if the log does not say.
        provider: libfabric's provider, as in `efa`; empty if it does not say.
        gpu_direct: True if some channel sends from GPU memory without the host.
    """

    name: str = ""
    provider: str = ""
    gpu_direct: bool = False

    @property
    def is_efa(self) -> bool:
        """True if NCCL sends through EFA's plugin and the plugin through EFA."""
        return self.name in PLUGIN_NAMES and self.provider == "efa"

    def __str__(self) -> str:
        parts = [self.name or "not said", f"provider {self.provider}" if self.provider else ""]
        return ", ".join(filter(None, [*parts, "GPUDirect RDMA" if self.gpu_direct else ""]))


def log_environment(token: str) -> dict[str, str]:
    """Returns the environment variables with which NCCL writes what `network_of_process` reads."""
    return {
        "NCCL_DEBUG": "INFO",
        "NCCL_DEBUG_SUBSYS": "INIT,NET",
        "NCCL_DEBUG_FILE": f"{LOG_PREFIX}{token}.%h.%p",
    }


def network_of_process(environment: Mapping[str, str] = os.environ) -> Network:
    """Returns what NCCL has said in this process so far, and removes its log."""
    pattern = environment.get("NCCL_DEBUG_FILE", "").replace("%h", "*").replace("%p", str(os.getpid()))
    text = ""
    for path in glob.glob(pattern) if pattern.startswith(LOG_PREFIX) else ():
        text += Path(path).read_text(errors="replace")
        Path(path).unlink(missing_ok=True)
    return parse_log(text)


def parse_log(text: str) -> Network:
    """Returns the network in NCCL's log. If the log has several communicators, the last one counts."""
    names = re.findall(r"Using network (.+?)\s*$", text, re.MULTILINE)
    providers = re.findall(r"NET/OFI Selected [Pp]rovider is ([\w-]+)", text)
    return Network(names[-1] if names else "", providers[-1] if providers else "", "/GDRDMA" in text)


def efa_devices(devices: Path = Path("/sys/class/infiniband")) -> list[str]:
    """Returns the names of this node's EFA devices; empty if there are none."""
    vendors = {path.parent.parent.name: path.read_text().strip() for path in devices.glob("*/device/vendor")}
    return sorted(name for name, vendor in vendors.items() if vendor == AMAZON_VENDOR)
