"""The project installed from its wheel, without a checkout, runs from any folder with all that it ships."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT

pytestmark = pytest.mark.slow

Run = Callable[..., str]
PARTS = ("cluster", "jobs", "pipeline", "tokenization", "pyproject.toml", "README.md", "LICENSE")
NAMES = sorted(path.stem for path in (CHECKOUT / "jobs").glob("*.py") if path.name != "__init__.py")
RECIPES = sorted(path.stem for path in (CHECKOUT / "jobs" / "recipes").glob("*.py") if path.name != "__init__.py")
HELP = """
import runpy, sys
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    try:
        runpy.run_module(f"jobs.{name}", run_name="__main__")
    except SystemExit as end:
        assert not end.code, name
"""
SHIPPED = """
from tokenization.config.sources import SHIPPED
print(*SHIPPED.iterdir(), sep="\\n")
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, in a folder whose path has spaces."""
    copy = tmp_path_factory.mktemp("source") / "a checkout with spaces"
    copy.mkdir()
    for part in PARTS:
        path, ignored = CHECKOUT / part, shutil.ignore_patterns("__pycache__")
        if path.is_dir():
            shutil.copytree(path, copy / part, ignore=ignored)
        else:
            shutil.copy(path, copy / part)
    return copy


@pytest.fixture(scope="module")
def installed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs the Python of an environment in which the wheel is installed, from a folder of its own. The packages that
    the project needs are those of the tests' environment, but not the project that is installed there."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    options = ["-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *options, "-w", str(folder), str(source)], check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = str(folder / "env" / "bin" / "python")
    subprocess.run([*pip, "--python", python, "install", "-q", "--no-deps", "--no-index", str(wheel)], check=True)
    (folder / "elsewhere").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*words: str, code: int = 0) -> str:
        done = subprocess.run(
            [python, *words], cwd=folder / "elsewhere", env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    return run


def test_every_job_says_what_it_does(installed: Run) -> None:
    said = installed("-c", HELP, *NAMES)
    assert said.count("usage:") == len(NAMES)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_planned(installed: Run, recipe: str) -> None:
    shown = installed("-m", "jobs.train_stage", "--dry-run", "--recipe", recipe, "--json")
    assert json.loads(shown.splitlines()[0])["recipe"] == recipe


def test_the_projects_cluster_files_are_found_by_name(installed: Run) -> None:
    names = ["aws_a100", "cluster/local.yaml", "kuberay/raycluster.yaml"]
    assert "FILL_IN" in installed("-m", "jobs.check_cluster", *names, code=2)
    asked = installed("-m", "jobs.train_stage", "--dry-run", "--recipe", "mars_7b", "--cluster", "aws_a100")
    assert "p4de_on_demand" in asked


def test_the_shipped_vqgan_is_found_and_it_is_the_wheels(installed: Run) -> None:
    files = [Path(line) for line in installed("-c", SHIPPED).splitlines()]
    assert {"config.json", "model.safetensors"} <= {path.name for path in files}
    assert all("site-packages" in path.parts and not path.is_relative_to(CHECKOUT) for path in files)


def test_runs_are_kept_in_the_current_folder(installed: Run) -> None:
    assert "elsewhere/runs/demo/ledger" in installed("-m", "jobs.budget", "report", code=3)


@pytest.mark.parametrize("form", [["jobs/train_stage.py"], ["-m", "jobs.train_stage"]])
def test_a_checkout_may_lie_in_a_folder_with_spaces(source: Path, form: list[str]) -> None:
    for words in (["--help"], ["--dry-run"]):
        environment = os.environ | {"PYTHONPATH": str(source)}
        subprocess.run([sys.executable, *form, *words], cwd=source, env=environment, capture_output=True, check=True)
