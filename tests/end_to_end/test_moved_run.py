"""A run whose folder was moved between two stages goes on: what past code stored, and what this code stores."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from tests.support.checkout import CHECKOUT
from tests.support.forked_jobs import run_forked_job
from tests.support.past_run import copy_past_run
from tests.support.small_ray import small_ray

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with small_ray() as cluster:
        yield cluster


class Run:
    """A run that has its corpus and its tokenizer inside, and the jobs on it."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self._environment = folder, os.environ | {"RAY_ADDRESS": address}

    @property
    def settings(self) -> Path:
        return self.folder / "past" / "tokens" / "tokenization.json"

    def type(self, job: str, *words: str) -> subprocess.CompletedProcess[str]:
        where = ["--recipe", str(self.folder / "recipe.py"), "--root", str(self.folder)]
        where += ["--set", f"corpora.shapes.path={self.folder / 'past' / 'corpus'}"]
        where += ["--set", f"text_tokenizer={self.folder / 'past' / 'tokenizer'}"]
        done = run_forked_job([f"jobs/{job}.py", *words, *where], self._environment, CHECKOUT)
        assert done.returncode == 0, f"{job} {words}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done

    def move(self, folder: Path) -> "Run":
        shutil.move(self.folder, folder)
        moved = Run(folder, self._environment["RAY_ADDRESS"])
        pages = folder / "past" / "corpora" / "pages" / "tokens" / "tokenization.json"  # of a corpus outside
        pages.write_text(pages.read_text().replace(str(self.folder), str(folder)))
        return moved


def begin(folder: Path, address: str) -> Run:
    copy_past_run(folder)
    run = Run(folder, address)
    for name in ("corpus", "tokenizer"):
        shutil.move(folder / name, folder / "past" / name)
        for path in (run.settings, *folder.glob("past/stage*/recipe.json")):
            path.write_text(path.read_text().replace(f"{folder}/{name}", f"{folder}/past/{name}"))
    return run


def test_a_run_that_has_moved_goes_on_with_its_next_stage_and_is_exported(cluster: Cluster, tmp_path: Path) -> None:
    run = begin(tmp_path / "before", cluster.address)
    run.type("init_model")
    moved = run.move(tmp_path / "elsewhere" / "after")
    manifest = json.loads(moved.type("tokenize", "--json").stdout.splitlines()[-1])
    assert manifest["corpus"] == str(moved.folder / "past" / "corpus") and manifest["rows_out"] > 0
    rows = moved.folder / "past" / "stage2" / "rows"
    moved.type("init_model")
    said = moved.type("train_stage", "--stage", "2").stderr
    assert "resumes from step 19" in said and "stage 2: finished" in said
    index = {path: path.stat().st_mtime_ns for path in rows.glob("*.parquet")}
    moved.type("export_model", "--checkpoint", str(moved.folder / "past"), "--out", str(tmp_path / "model"))

    again = moved.move(tmp_path / "third")
    assert "another" not in again.type("tokenize").stderr
    stored = [json.loads((again.folder / "past" / name / "recipe.json").read_text()) for name in ("stage1", "stage2")]
    assert [each["vqgan_folder"] for each in stored] == [str(run.folder / "past" / "vq"), "{run}/vq"]
    again.type("export_model", "--checkpoint", str(again.folder / "past"), "--out", str(tmp_path / "again"))
    exported = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("model", "again")]
    assert index and exported[0] == exported[1]


def test_tokens_of_another_corpus_are_still_refused(cluster: Cluster, tmp_path: Path) -> None:
    run = begin(tmp_path / "run", cluster.address)
    begun = json.loads(run.settings.read_text())
    begun["corpus"]["url"] = "/data/of/somebody/else"
    run.settings.write_text(json.dumps(begun))
    with pytest.raises(AssertionError, match="tokens of another corpus: url"):
        run.type("tokenize")
