"""The faults that jobs are tried with, and what a job must do on each. `docs/reliability.md` shows it as a table.

A test of a fault takes its jobs from `cells` or `some_cells`, runs them, and gives what they did to `Fault.check`.
After a change: `python -m tests.support.fault_matrix` writes the table anew.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
from _pytest.mark import ParameterSet

from pipeline.checkpoints.manifest import complete_checkpoints, write_manifest
from pipeline.errors import ExitCode
from tests.support.checkout import CHECKOUT
from tests.support.past_run import PAST_RUN
from tokenization.files.storage import open_storage

PAGE = CHECKOUT / "docs" / "reliability.md"
BEGIN, END = "<!-- fault matrix: begin -->", "<!-- fault matrix: end -->"
ON_RAY = (
    "tokenize",
    "train_vqgan",
    "inspect_tokens",
    "train_stage",
    "preflight",
    "evaluate",
    "demo",
    "generate",
    "train_lm",
)
"""Jobs that work on Ray in the small run."""
STARTING_RAY = (*ON_RAY, "make_corpus", "benchmark")
"""Jobs that use Ray."""
MORE_WORDS = {"make_corpus": ["--kind", "noise"], "train_stage": ["--stage", "2"]}
"""Flags with which a job has something to do in the small run."""
SHARED_MEMORY = Path("/dev/shm")
OF_RAY_TRAIN = ".validate_storage_marker"
"""A file that Ray Train leaves in its folder of each attempt."""
OF_FORKED_JOBS = "sem.mp-"
"""Semaphores of a forked job that was killed stay until the tests end; other jobs have no named ones."""


@dataclass(frozen=True)
class Fault:
    """A fault, the jobs that it is tried with, and how they must end.

    Attributes:
        name: what happens, as the table says it.
        jobs: names of the files in `jobs/` that it is tried with.
        code: exit code.
        cause, remedy: parts of the one line that the job ends with.
        test: file of the test that runs the cells, relative to `tests`.
    """

    name: str
    jobs: tuple[str, ...]
    code: ExitCode
    cause: str
    remedy: str
    test: str

    def check(self, done: subprocess.CompletedProcess[str]) -> None:
        """Checks how a job ended on this fault."""
        output = f"{done.args}: {done.returncode}\n{done.stdout}{done.stderr}"
        assert done.returncode == self.code, output
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")] or [""]
        assert self.cause in line and self.remedy in line, output
        assert "Traceback" not in output, output


FAULTS: dict[str, Fault] = {
    "no cluster": Fault(
        name="nothing listens at `RAY_ADDRESS`",
        jobs=STARTING_RAY,
        code=ExitCode.INPUT,
        cause="nothing listens at RAY_ADDRESS",
        remedy="Start one with `ray start --head`, correct RAY_ADDRESS, or unset it",
        test="jobs/test_cluster_faults.py",
    ),
    "lost cluster": Fault(
        name="the cluster ends while the job works on it (long, but for `tokenize` and `train_stage`)",
        jobs=ON_RAY,
        code=ExitCode.INPUT,
        cause="has ended or cannot be reached any more",
        remedy="start it again, or name another one with RAY_ADDRESS, then run the same command again to resume",
        test="jobs/test_cluster_faults.py",
    ),
    "long folder": Fault(
        name="`RAY_TMPDIR` is too long for Ray's sockets",
        jobs=STARTING_RAY,
        code=ExitCode.USAGE,
        cause="are too long for Ray's sockets",
        remedy="set it to another folder, or unset it",
        test="jobs/test_machine_faults.py",
    ),
    "few files": Fault(
        name="a process may open 256 files only (`ulimit -Hn 256`)",
        jobs=STARTING_RAY,
        code=ExitCode.USAGE,
        cause="may open 256 files, but Ray needs",
        remedy="raise the limit with `ulimit -n",
        test="jobs/test_machine_faults.py",
    ),
    "file above": Fault(
        name="`--root` lies below a file",
        jobs=tuple(job for job in STARTING_RAY if job != "benchmark"),  # it has no folder
        code=ExitCode.USAGE,
        cause="which is a file",
        remedy="name a folder",
        test="jobs/test_machine_faults.py",
    ),
    "no permission": Fault(
        name="`--root` lies on a file system that is mounted read-only",
        jobs=tuple(job for job in STARTING_RAY if job not in ("benchmark", "inspect_tokens", "preflight", "demo")),
        code=ExitCode.INPUT,
        cause="error: '",
        remedy="get permission to write there, or choose another folder",
        test="jobs/test_machine_faults.py",
    ),
    "full disk": Fault(
        name="the disk of the run is full (long, but for `train_stage` and `export_model`)",
        jobs=(
            "train_stage",
            "export_model",
            "report",
            "generate",
            "make_corpus",
            "evaluate",
            "inspect_tokens",
            "train_vqgan",
            "compare_experts",
            "new_recipe",
        ),
        code=ExitCode.INPUT,
        cause="No space left on device: ",
        remedy="make room there, or choose another folder",
        test="jobs/test_full_disk.py",
    ),
    "full disk while it works": Fault(
        name="the disk of the run gets full while a job works on Ray",
        jobs=("tokenize", "train_lm"),
        code=ExitCode.INPUT,
        cause="No space left on device: ",
        remedy="make room there, or choose another folder",
        test="jobs/test_full_disk.py",
    ),
}


def cells(key: str) -> list[str]:
    """The jobs that a fault is tried with."""
    return list(FAULTS[key].jobs)


def some_cells(key: str, short: int = 1) -> list[ParameterSet]:
    """The jobs that a fault is tried with, as parameters of a test: the first `short` of them in `make test`, the
    others in `make test-long`."""
    jobs = cells(key)
    return [*map(pytest.param, jobs[:short]), *(pytest.param(job, marks=pytest.mark.long) for job in jobs[short:])]


def words_of(job: str, folder: Path) -> list[str]:
    """The words of a job in the run that `copy_past_run` made in `folder`, where the job has something to do."""
    run = folder / "past"
    if job == "benchmark":
        return ["jobs/benchmark.py", "tokenize"]
    if job == "train_lm":
        shutil.rmtree(run / "lm", ignore_errors=True)
    elif not (run / "lm").exists():
        shutil.copytree(PAST_RUN / "past" / "lm", run / "lm")
    checkpoints = run / "stage2" / "checkpoints"
    for checkpoint in complete_checkpoints(str(checkpoints), []):
        manifest = replace(checkpoint.manifest, finished=job == "generate")
        write_manifest(open_storage(checkpoints), checkpoint.name, manifest)
    return [f"jobs/{job}.py", *MORE_WORDS.get(job, []), "--recipe", str(folder / "recipe.py"), "--root", str(folder)]


@contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    """Checks that the enclosed jobs leave no process whose command line or working directory names `folder`, no shared
    memory, and no hidden file in `folder`."""
    before = set(SHARED_MEMORY.iterdir())
    yield
    hidden = [path for path in folder.rglob(".*") if path.is_file() and path.name != OF_RAY_TRAIN]
    assert not hidden, f"hidden files are left: {hidden}"
    processes = [process.info for process in psutil.process_iter(["pid", "cmdline", "cwd"]) if _names(process, folder)]
    assert not processes, f"processes are left: {processes}"
    new = {path for path in set(SHARED_MEMORY.iterdir()) - before if not path.name.startswith(OF_FORKED_JOBS)}
    left = [path for path in new if not _is_used(path)]
    assert not left, f"shared memory is left: {left}"


def _names(process: psutil.Process, folder: Path) -> bool:
    words = [*(process.info["cmdline"] or []), process.info["cwd"] or ""]
    return process.info["pid"] != psutil.Process().pid and any(str(folder) in word for word in words)


def _is_used(path: Path) -> bool:
    """True if a process has mapped the file, as those of others on this machine are, or it is gone by now."""
    maps = [each.read_text() for each in Path("/proc").glob("[0-9]*/maps") if _is_readable(each)]
    return not path.exists() or any(str(path) in text for text in maps)


def _is_readable(path: Path) -> bool:
    try:
        path.read_text()
    except OSError:  # the process has ended, or is another user's
        return False
    return True


def table() -> str:
    """The matrix as a table in Markdown."""
    lines = ["| fault | exit code | the line says | tried with | test |", "|---|---|---|---|---|"]
    for fault in FAULTS.values():
        jobs = ", ".join(f"`{job}`" for job in fault.jobs)
        says = f"{fault.cause} … {fault.remedy}".replace("|", "\\|")
        lines.append(f"| {fault.name} | {fault.code.value} | {says} | {jobs} | `tests/{fault.test}` |")
    return "\n".join(lines)


def with_table(page: str) -> str:
    """The page with the matrix of this module between its two marks."""
    return re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{table()}\n{END}", page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
