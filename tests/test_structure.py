"""Imports point one way, and every job can be run as users type it."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT

JOBS = sorted(path for path in (CHECKOUT / "jobs").glob("*.py") if path.name != "__init__.py")
FROM_TOKENIZATION = {
    "tokenization.table.token_table",
    "tokenization.vqgan.image_tokenizer",
    "tokenization.text_tokenizer",
    "tokenization.files.storage",
    "tokenization.files.torch_files",
    "tokenization.errors",
    "tokenization.dtypes",
}
RAY_FILES = {"attempts.py", "attempt_watch.py", "cluster_room.py", "ray_training.py", "driver_node.py"}
RAY_FILES |= {"ledger.py", "held_devices.py"}


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_nothing_imports_jobs_and_tokenization_never_imports_pipeline():
    for package, forbidden in (("pipeline", {"jobs"}), ("tokenization", {"jobs", "pipeline"})):
        for path in (CHECKOUT / package).rglob("*.py"):
            tops = {name.split(".")[0] for name in imports_of(path)}
            assert not tops & forbidden, f"{path} imports {tops & forbidden}"


def test_pipeline_takes_only_the_table_the_tokenizers_and_storage_from_tokenization():
    for path in (CHECKOUT / "pipeline").rglob("*.py"):
        taken = {name for name in imports_of(path) if name.startswith("tokenization")}
        assert taken <= FROM_TOKENIZATION, f"{path} imports {taken - FROM_TOKENIZATION}"


def test_the_train_loop_and_the_model_run_without_ray():
    for path in (CHECKOUT / "pipeline").rglob("*.py"):
        if path.name not in RAY_FILES:
            assert not any(name.split(".")[0] == "ray" for name in imports_of(path)), path


def test_deepspeeds_key_names_live_in_one_file():
    for path in (CHECKOUT / "pipeline").rglob("*.py"):
        if path.name != "deepspeed_engine.py":
            assert "zero_optimization" not in path.read_text(), path


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_a_job_file_can_be_executed_by_ray_job_submit(path):
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/usr/bin/env -S python -P\n")


@pytest.mark.parametrize("form", [["jobs/tokenize.py"], ["-m", "jobs.train_stage"], ["-P", "jobs/generate.py"]])
def test_help_names_every_flag_with_its_default(form):
    shown = subprocess.run([sys.executable, *form, "--help"], cwd=CHECKOUT, capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0, shown.stderr
    assert "--recipe" in shown.stdout and "default: demo" in shown.stdout and "--set" in shown.stdout
