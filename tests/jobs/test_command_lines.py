"""Command lines answer at once: flags need none of the libraries that the work needs."""

import subprocess
import sys

import pytest

from tests.support.checkout import CHECKOUT

NAMES = sorted(path.stem for path in (CHECKOUT / "jobs").glob("*.py") if path.name != "__init__.py")
HEAVY = {"deepspeed", "diffusers", "matplotlib", "pandas", "pyarrow", "ray", "torch", "transformers"}
MAX_CPU_S = 1.0
TYPED = """
import resource, runpy, sys
name, *sys.argv[1:] = sys.argv[1:]
try:
    runpy.run_module(f"jobs.{name}", run_name="__main__")
except SystemExit as end:
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(end.code or 0, used.ru_utime + used.ru_stime, *sys.modules)
"""


def typed(name: str, *words: str) -> tuple[int, float, set[str]]:
    """The exit code of a job, its CPU seconds, and the modules that it loaded."""
    command = [sys.executable, "-c", TYPED, name, *words]
    shown = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    code, cpu_s, *modules = shown.stdout.splitlines()[-1].split()
    return int(code), float(cpu_s), set(modules)


@pytest.mark.parametrize("name", NAMES)
def test_help_of_a_job_loads_nothing_heavy_and_takes_a_second_at_most(name: str) -> None:
    code, cpu_s, modules = typed(name, "--help")
    assert code == 0 and not HEAVY & modules
    assert cpu_s < MAX_CPU_S


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_mistyped_flag_is_refused_as_quickly(name: str) -> None:
    code, cpu_s, modules = typed(name, "--no-such-flag")
    assert code == 2 and not HEAVY & modules
    assert cpu_s < MAX_CPU_S


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "needed"),
    [
        (("train_stage", "--dry-run", "--recipe", "mars_7b"), 0, set()),
        (("train_stage", "--dry-run", "--recipe", "mars_7b", "--cluster", "aws_a100"), 0, {"ray"}),
        (("budget", "plan"), 0, {"pandas", "pyarrow"}),
        (("check_cluster", "aws_a100"), 2, {"ray"}),
        (("tokenize", "--dry-run"), 0, {"ray"}),
    ],
)
def test_a_plan_is_there_in_seconds_because_it_loads_no_model(
    words: tuple[str, ...], code: int, needed: set[str]
) -> None:
    ended, _, modules = typed(*words)
    assert ended == code and HEAVY & modules <= needed
