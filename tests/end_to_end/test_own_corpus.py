"""From one's own pictures to a model that draws them: README's five commands, on a folder, on parquet and on tars.

`make test` walks them on a folder. The others: `python -m pytest -m long tests/end_to_end/test_own_corpus.py`.
"""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from ray.cluster_utils import Cluster

from pipeline.data.row_index import RowIndex
from tests.support.checkout import CHECKOUT
from tests.support.forked_jobs import run_forked_job
from tests.support.pictures import noise_png, write_tar
from tests.support.small_ray import small_ray
from tests.support.small_run import small_vqgan

ROWS = 40
SMALL = {
    "tokenization.size_px": 32,
    "language_expert.hidden_size": 32,
    "language_expert.intermediate_size": 64,
    "language_expert.steps": 2,
    "stages.0.steps": 2,
    "stages.0.global_batch_size": 8,
    "stages.0.validate_every_steps": 1,
    "stages.0.sample_every_steps": 2,
}
"""What makes the jobs short. The commands are the printed ones otherwise."""


def folder(place: Path) -> None:
    for row in range(ROWS):
        (place / f"{row:03d}.png").write_bytes(noise_png(row))
    rows = [{"file_name": f"{row:03d}.png", "caption": f"cup {row}", "zh": f"第{row}个杯子"} for row in range(ROWS)]
    (place / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def parquet(place: Path) -> None:
    for start in range(0, ROWS, 20):
        rows = [{"image": noise_png(row), "text": f"cup {row}"} for row in range(start, start + 20)]
        pq.write_table(pa.Table.from_pylist(rows), place / f"{start}.parquet")


def tars(place: Path) -> None:
    for start in range(0, ROWS, 20):
        samples = [(f"{row:09d}", noise_png(row), {"caption": f"cup {row}"}) for row in range(start, start + 20)]
        write_tar(place / f"{start:05d}.tar", samples)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with small_ray() as cluster:
        yield cluster


def printed_commands() -> list[list[str]]:
    """The words of README's commands for one's own corpus, from the job's name on."""
    blocks = (CHECKOUT / "README.md").read_text().split("```")[1::2]
    (block,) = [each for each in blocks if "jobs.new_recipe" in each]
    lines = re.findall(r"^\.venv/bin/python -m jobs\.(.+)$", block, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


class Own:
    """A place with a corpus, and the jobs on it."""

    def __init__(self, place: Path, address: str) -> None:
        self.place, self.environment = place, os.environ | {"RAY_ADDRESS": address, "PYTHONPATH": str(CHECKOUT)}
        torch.manual_seed(0)  # of some random VQ-GANs all pictures have the same codes, which leaves no retrieval
        small_vqgan(1.0).save_pretrained(place / "vq")

    def type(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        words = tuple(str(self.place / "corpus") if word == "FOLDER" else word for word in words)
        job = [str(CHECKOUT / "jobs" / f"{name}.py"), *words, "--root", str(self.place / "runs")]
        if name == "new_recipe":
            job += ["--vqgan", str(self.place / "vq"), "--gpus", "0"]
        else:
            job += [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
        done = run_forked_job(job, self.environment, self.place)
        assert done.returncode == 0, f"{name}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done


@pytest.mark.parametrize(
    "write",
    [folder, pytest.param(parquet, marks=pytest.mark.long), pytest.param(tars, marks=pytest.mark.long)],
)
def test_the_printed_commands_lead_to_a_picture_and_to_scores(
    cluster: Cluster, tmp_path: Path, write: Callable[[Path], None]
) -> None:
    (tmp_path / "corpus").mkdir()
    write(tmp_path / "corpus")
    own = Own(tmp_path, cluster.address)
    commands = printed_commands()
    assert len(commands) <= 5 and commands[-1][0] == "generate"
    for name, *words in commands:
        own.type(name, *words)
    run = tmp_path / "runs" / "corpus"
    (picture,) = (run / "samples" / "prompts" / "0001" / "pictures").glob("*.png")
    assert Image.open(picture).size == (32, 32)

    own.type("evaluate", "--recipe", "own.py", "--retrieval", "3")
    metrics = json.loads((run / "metrics.json").read_text())
    trained, held_out = (
        int(RowIndex.mapped(run / "stage1" / "rows" / f"{name}.arrow").counts.sum())
        for name in ("main", "main.held_out")
    )
    assert metrics["kind"] == "held_out" and metrics["rows"] == held_out > 0
    assert trained + held_out == ROWS
    assert metrics["text_to_image/en/bits_a_code"] > 0 and metrics["captioning/en/bits_a_caption_byte"] > 0
    assert metrics["frequencies/bits_a_code"] > 0 and 0 <= metrics["retrieval/en/picture_of_caption"] <= 1
    assert ("text_to_image/zh/bits_a_code" in metrics) == (write is folder)
    assert Image.open(run / "samples" / "held_out.png").width > 200
