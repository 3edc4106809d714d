"""A real Slurm controller with two nodes on this machine, each a daemon of its own."""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.support.ports import free_port

DAEMONS = ("munged", "slurmctld", "slurmd")
NODES = ("n1", "n2")
CPUS, MEMORY_MB = 2, 8000
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
"""


def is_installed() -> bool:
    """True if this machine has Slurm's daemons, and this user may run them."""
    return os.geteuid() == 0 and all(shutil.which(name) for name in DAEMONS)


class SlurmCluster:
    """A controller and two nodes.

    Attributes:
        environment: environment of commands that use it.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))
        host, munge = socket.gethostname(), self._folder / "munge"
        munge.mkdir(mode=0o700)
        (self._folder / "state").mkdir()
        key = munge / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        lines = [CONFIGURATION.format(host=host, folder=self._folder, port=free_port())]
        for name in NODES:
            where = f"NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()}"
            lines.append(f"NodeName={name} {where} CPUs={CPUS} RealMemory={MEMORY_MB}\n")
        lines.append("PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE\n")
        configuration = self._folder / "slurm.conf"
        configuration.write_text("".join(lines))
        # Each job has a folder of its own for Ray, and not that of the tests.
        self.environment = {name: value for name, value in os.environ.items() if name != "RAY_TMPDIR"}
        self.environment |= {"SLURM_CONF": str(configuration)}
        files = [f"--{name}-file={munge / name}" for name in ("key", "pid", "log", "seed")]
        self._start("munged", "--foreground", "--force", f"--socket={munge / 'socket'}", *files)
        self._wait_until(lambda: (munge / "socket").exists(), "munged does not answer")
        self._start("slurmctld", "-D", "-f", str(configuration))
        for name in NODES:
            self._start("slurmd", "-D", "-N", name, "-f", str(configuration))
        self._wait_until(lambda: self.type("sinfo", "-h", "-o", "%D %t") == "2 idle", "the nodes do not get idle")

    def type(self, *words: str) -> str:
        """Runs one of Slurm's commands. Returns what it prints, and nothing if it fails."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    def fields_of(self, job: str) -> dict[str, str]:
        """What Slurm knows of a job."""
        words = self.type("scontrol", "show", "job", job).split()
        return dict(word.partition("=")[::2] for word in words)

    def stop(self) -> None:
        """Ends all jobs and all daemons."""
        self.type("scancel", "--user=root")
        found = psutil.process_iter(["cmdline"])
        ours = [each for each in found if str(self._folder) in " ".join(each.info["cmdline"] or [])]
        for process in ours:
            process.kill()
        psutil.wait_procs(ours, timeout=30)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, *words: str) -> None:
        with (self._folder / f"{words[0]}.out").open("a") as log:
            subprocess.Popen(words, env=self.environment, stdout=log, stderr=log, start_new_session=True)

    def _wait_until(self, holds: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + 60
        while not holds():
            logs = "\n".join(path.read_text()[-2000:] for path in self._folder.glob("*.out"))
            assert time.monotonic() < deadline, f"{otherwise}:\n{logs}"
            time.sleep(0.2)
