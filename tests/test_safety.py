"""Nothing that a run reads can run code or reach outside of its folder, and no secret is written down."""

import ast
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.checkpoints.manifest import open_checkpoint, write_manifest
from pipeline.errors import InputError
from tests.support.checkout import CHECKOUT
from tests.support.checkpoints import make
from tests.support.s3 import SECRET, FaultyS3
from tokenization.files.storage import open_storage

SOURCES = [
    path for folder in ("cluster", "jobs", "pipeline", "tokenization") for path in (CHECKOUT / folder).rglob("*.py")
]
BETWEEN_OWN_PROCESSES = {"chunk.py", "encoding.py", "held_chunks.py", "step_stream.py"}
"""Where chunks go through Ray's store from one of our tasks to another, in one job, and through a file without a name
that only its writer has; and steps through a socket that a rank has made for the process that builds them."""


def calls_of(path: Path) -> list[tuple[str, dict[str, ast.expr]]]:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [(ast.unparse(call.func), {word.arg or "**": word.value for word in call.keywords}) for call in calls]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_nothing_is_unpickled_and_no_remote_code_is_trusted(path: Path) -> None:
    for name, keywords in calls_of(path):
        assert "trust_remote_code" not in keywords, path
        if name in ("torch.load", "load"):
            assert ast.unparse(keywords.get("weights_only", ast.Constant(None))) == "True", path
        if name.startswith(("pickle.load", "cloudpickle.load", "joblib.load")) or name in ("eval", "exec"):
            assert path.name in BETWEEN_OWN_PROCESSES, path
        if name == "np.load":
            assert "allow_pickle" not in keywords, path


@pytest.mark.parametrize("file", ["../outside.safetensors", "/etc/passwd", "a/../../outside.safetensors"])
def test_a_manifest_cannot_name_files_of_other_folders(tmp_path: Path, file: str) -> None:
    """This includes a manifest whose own hash is right."""
    folder = tmp_path / "checkpoints"
    name = make(str(folder), 10)
    manifest = open_checkpoint(str(folder), name).manifest
    record = next(iter(manifest.files.values()))
    write_manifest(open_storage(folder), name, replace(manifest, files={file: record}))
    with pytest.raises(InputError, match="not a file of its folder"):
        open_checkpoint(str(tmp_path / "checkpoints"), name)


@pytest.mark.slow
def test_secrets_of_the_environment_are_in_no_plan_and_no_message(tmp_path: Path) -> None:
    server = FaultyS3()  # without the bucket that is asked for
    secrets = server.environment() | {"WANDB_API_KEY": f"{SECRET}2", "MLFLOW_TRACKING_PASSWORD": f"{SECRET}3"}
    words = ["jobs/train_stage.py", "--recipe", "demo", "--root", str(tmp_path / "runs")]
    words += ["--set", "checkpoint_folder=s3://nobodys-bucket/run", "--set", "trackers=('wandb',)"]
    for more, code in (["--dry-run", "--json"], 0), ([], 3):
        done = subprocess.run(
            [sys.executable, "-P", *words, *more],
            cwd=CHECKOUT,
            env=secrets | {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(CHECKOUT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert SECRET not in done.stdout + done.stderr
    assert "nobodys-bucket" in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    server.stop()
