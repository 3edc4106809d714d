"""Which network NCCL took is read from its log: a fall back from EFA to TCP is seen.

The logs are excerpts in the form of those that users of NCCL and of EFA's plugin published; none was recorded here.
"""

import os
from pathlib import Path

import pytest

from pipeline.preflight.nccl_log import LOG_PREFIX, Network, efa_devices, log_environment, network_of_process, parse_log

EFA = """\
node:172:172 [0] NCCL INFO NET/OFI Selected Provider is efa (found 4 nics)
node:172:172 [0] NCCL INFO Using network AWS Libfabric
node:172:190 [0] NCCL INFO Channel 00/0 : 7[7] -> 8[0] [send] via NET/AWS Libfabric/0/GDRDMA
"""
NEWER_EFA = """\
node:172:172 [0] NCCL INFO NET/Plugin: Loaded net plugin Libfabric (v11)
node:172:172 [0] NCCL INFO NET/OFI Selected provider is efa, fabric is efa-direct (found 16 nics)
node:172:172 [0] NCCL INFO Using network Libfabric
"""
TCP = """\
node:172:172 [0] NCCL INFO NET/IB : No device found.
node:172:172 [0] NCCL INFO NET/Socket : Using [0]eth0:10.0.4.51<0>
node:172:172 [0] NCCL INFO Using network Socket
"""
LIBFABRIC_OVER_TCP = NEWER_EFA.replace("provider is efa, fabric is efa-direct", "provider is tcp;ofi_rxm")


@pytest.mark.parametrize(
    ("log", "network", "is_efa"),
    [
        (EFA, Network("AWS Libfabric", "efa", gpu_direct=True), True),
        (NEWER_EFA, Network("Libfabric", "efa"), True),
        (TCP, Network("Socket"), False),
        (LIBFABRIC_OVER_TCP, Network("Libfabric", "tcp"), False),
        ("", Network(), False),
    ],
)
def test_the_network_that_nccl_took_is_read_from_its_log(log: str, network: Network, is_efa: bool) -> None:
    assert parse_log(log) == network and parse_log(log).is_efa == is_efa


def test_a_process_reads_its_own_log_and_leaves_none(tmp_path: Path) -> None:
    environment = log_environment(tmp_path.name)
    log = Path(environment["NCCL_DEBUG_FILE"].replace("%h", "node").replace("%p", str(os.getpid())))
    other = log.with_name(log.name + "1")
    log.write_text(EFA)
    other.write_text(TCP)
    try:
        assert network_of_process(environment).is_efa
        assert not log.exists() and other.exists()
    finally:
        other.unlink()


def test_a_log_that_the_user_asked_for_stays(tmp_path: Path) -> None:
    own = tmp_path / "mine.log"
    own.write_text(EFA)
    assert not str(own).startswith(LOG_PREFIX)
    assert network_of_process({"NCCL_DEBUG_FILE": str(own)}) == Network() and own.exists()


def test_efa_devices_are_told_from_other_cards(tmp_path: Path) -> None:
    for name, vendor in (("rdmap16s27", "0x1d0f"), ("mlx5_0", "0x15b3")):
        (tmp_path / name / "device").mkdir(parents=True)
        (tmp_path / name / "device" / "vendor").write_text(f"{vendor}\n")
    assert efa_devices(tmp_path) == ["rdmap16s27"] and efa_devices(tmp_path / "none") == []
