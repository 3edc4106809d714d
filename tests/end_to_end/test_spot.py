"""A stage on spot nodes, with tokens, checkpoints and ledger in a bucket: nodes that are taken away cost only steps."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.config.language_expert import LanguageExpertConfig
from pipeline.ledger.table import read_ledger
from pipeline.model.loading import qwen2_config
from tests.support.checkout import CHECKOUT
from tests.support.fake_cluster import FakeCluster
from tests.support.faulty_server import ServerOf
from tests.support.s3 import BUCKET
from tests.support.small_run import small_checkout
from tokenization.files.storage import open_storage

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

STEPS = 600


@pytest.fixture(params=["s3", "gs", "az"])
def bucket(server_of: ServerOf, request: pytest.FixtureRequest) -> str:
    """The URL of an empty bucket."""
    server_of(request.param)
    return f"{request.param}://{BUCKET}"


@pytest.fixture
def cluster(bucket: str, tmp_path: Path) -> Iterator[FakeCluster]:
    """cluster/aws_a100.yaml on fake nodes, started from a checkout with a small recipe."""
    checkout = small_checkout(tmp_path)
    sizes: dict[str, Any] = dict(vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    expert = LanguageExpertConfig(**sizes, num_attention_heads=2, num_key_value_heads=2)
    config = qwen2_config(expert, expert.vocab_size)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path / "lm")
    cluster = FakeCluster(CHECKOUT / "cluster" / "aws_a100.yaml", tmp_path, idle_s=20, checkout=checkout)
    yield cluster
    cluster.stop()


def world_sizes(checkpoints: str) -> dict[int, int]:
    """The number of ranks of each checkpoint, by step."""
    storage, found = open_storage(checkpoints), {}
    for name in storage.names():
        if name.endswith("manifest.json") and (text := storage.text(name)):  # old ones are removed meanwhile
            content = json.loads(text)
            found[content["step"]] = content["world_size"]
    return found


def test_a_spot_node_taken_away_brings_the_run_back_smaller_and_it_grows_again(
    cluster: FakeCluster, bucket: str, tmp_path: Path
) -> None:
    root, checkpoints = ["--root", str(tmp_path / "runs")], f"{bucket}/checkpoints"
    root += ["--set", f"corpora.main.tokens={bucket}/tokens", "--set", f"ledger_folder={bucket}/ledgers"]
    done = cluster.type(sys.executable, "-P", "jobs/tokenize.py", *root)
    assert done.returncode == 0, done.stderr
    words = [sys.executable, "-P", "jobs/train_stage.py", "--stage", "1", *root]
    for value in (
        f"language_expert_folder={tmp_path / 'lm'}",
        f"checkpoint_folder={checkpoints}",
        f"stages.0.steps={STEPS}",
        "stages.0.save_every_steps=20",
        "scaling.custom_resources={'spot': 8}",  # a node each
        "scaling.min_workers=1",
        "scaling.wait_for_all_s=20",
        "scaling.grow_after_s=5",
    ):
        words += ["--set", value]
    log = tmp_path / "job.log"
    job = subprocess.Popen(
        words, cwd=cluster.checkout, env=cluster.environment, stdout=log.open("w"), stderr=subprocess.STDOUT
    )
    try:
        seen: dict[int, int] = {}

        def until(size: int) -> int:
            """The step of a checkpoint of so many workers, later than those seen before."""
            after, deadline = max(seen, default=0), time.monotonic() + 400
            while True:
                new = {step: ranks for step, ranks in world_sizes(checkpoints).items() if step > after}
                seen.update(new)
                if size in new.values():
                    return max(step for step, ranks in new.items() if ranks == size)
                assert job.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)

        until(2)
        cluster.offer(p4de_spot=1, p4d_spot=0)
        cluster.take_away("p4de_spot")
        smaller = until(1)
        cluster.offer()
        larger = until(2)
        assert smaller < larger < STEPS
        assert job.wait(timeout=600) == 0, log.read_text()
    finally:
        job.kill()
    steps = [
        json.loads(line)["step"] for line in Path(tmp_path / "runs/demo/stage1/metrics.jsonl").read_text().splitlines()
    ]
    assert set(steps) == set(range(1, STEPS + 1))
    assert max(world_sizes(checkpoints)) == STEPS
    assert re.search("1 of 2 workers", log.read_text()), log.read_text()
    ledger = read_ledger(f"{bucket}/ledgers/demo").table
    attempts = ledger[(ledger["job"] == "train_stage") & ledger["step"].notna()]
    workers = attempts["gpu_count"].tolist()
    assert workers[0] == 2 and 1 in workers and workers[-1] == 2, workers
    assert attempts["event"].iloc[-1] == "end: done" and attempts["step"].max() == STEPS
    assert (ledger["job"] == "tokenize").any() and (attempts["device_seconds"] > 0).all()
