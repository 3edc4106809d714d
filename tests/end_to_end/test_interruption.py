"""Tokenization on a cluster of nodes that come and go: `make test-long`."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import ray
from ray.cluster_utils import Cluster

from tests.support.checkout import CHECKOUT
from tests.support.faulty_server import FaultyServer, ServerOf
from tests.support.pictures import noise_png, write_tar
from tests.support.s3 import BUCKET
from tests.support.small_run import small_vqgan
from tokenization.corpora.noise import write_noise_shard
from tokenization.files.storage import open_storage
from tokenization.job.benchmark import peak_memory
from tokenization.patience import OUTAGE_VARIABLE

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]

SHARDS, ROWS = 8, 30
KILLS = 10


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    small_vqgan(1.0).save_pretrained(folder / "vq")
    for shard in range(SHARDS):
        rows = range(shard * ROWS, (shard + 1) * ROWS)
        samples = [(f"{row:06d}", noise_png(row), {"caption": f"picture {row}"}) for row in rows]
        samples.append((f"broken{shard}", b"no picture", {"caption": "x"}))
        write_tar(folder / "corpus" / f"{shard:03d}.tar", samples)
    return folder


class Nodes:
    """A cluster of a head, where the drivers run, one node that decodes and one that encodes."""

    def __init__(self) -> None:
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        self._add_nodes()

    def _add_nodes(self) -> None:
        self.decoding = self.cluster.add_node(num_cpus=1, resources={"decoding": 8})
        self.encoding = self.cluster.add_node(num_cpus=1, resources={"encoding": 8})
        self.cluster.wait_for_nodes()

    def renew(self) -> None:
        """Exchanges both nodes, so that the new ones have this process's environment."""
        for node in (self.decoding, self.encoding):
            self.cluster.remove_node(node, allow_graceful=False)
        self._add_nodes()

    def kill_decoding_node(self) -> None:
        self.cluster.remove_node(self.decoding, allow_graceful=False)
        self.decoding = self.cluster.add_node(num_cpus=1, resources={"decoding": 8})


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    nodes = Nodes()
    yield nodes
    nodes.cluster.shutdown()


def command(inputs: Path, root: Path, *words: str) -> list[str]:
    own = ["--corpus", str(inputs / "corpus"), "--captions", "en=caption", "--resolution", "32", "--root", str(root)]
    own += ["--encode-batch-size", "4", "--set", f"vqgan_folder={inputs / 'vq'}", "--set", "heartbeat_s=1.0"]
    own += ["--set", "tokenizers.reader_resources={'decoding': 1}"]
    own += ["--set", "tokenizers.encoder_resources={'encoding': 1}", "--encoders", "1", "--readers", "2"]
    return [sys.executable, "-P", str(CHECKOUT / "jobs" / "tokenize.py"), "--json", *own, *words]


def run(nodes: Nodes, words: list[str], **environment: str) -> dict:
    environment = os.environ | {"RAY_ADDRESS": nodes.cluster.address} | environment
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    result: dict = json.loads(done.stdout.splitlines()[-1])
    return result


def tables(tokens: Path) -> dict:
    return {path.name: pq.read_table(path).to_pylist() for path in tokens.glob("*.parquet")}


@pytest.fixture(scope="module")
def whole(nodes: Nodes, inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    root = tmp_path_factory.mktemp("whole")
    manifest = run(nodes, command(inputs, root))
    assert (manifest["rows_in"], manifest["rows_out"]) == (SHARDS * (ROWS + 1), SHARDS * ROWS)
    return tables(root / "demo" / "tokens")


def test_whatever_is_killed_a_rerun_ends_with_the_same_tokens(
    nodes: Nodes, inputs: Path, whole: dict, tmp_path: Path
) -> None:
    """The driver, an encoder, a reader, a writer and a whole node are killed with SIGKILL at random moments."""
    chance, killed = random.Random(0), []
    tokens = tmp_path / "demo" / "tokens"
    for number in range(KILLS):
        victim = ("driver", "Encoder", "Reader", "Writer", "node")[number % 5]
        environment = os.environ | {"RAY_ADDRESS": nodes.cluster.address}
        log = tmp_path / f"job{number}.log"
        with log.open("w") as file:
            job = subprocess.Popen(command(inputs, tmp_path), env=environment, stdout=file, stderr=file)
        shards = len(list(tokens.glob("*.parquet")))
        first = "Reader" if victim == "node" else victim
        deadline = time.monotonic() + 120
        while job.poll() is None and time.monotonic() < deadline and not (victim == "driver" or actors_of(first)):
            time.sleep(0.05)
        while job.poll() is None and not actors_of("Writer") and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 3))
        if job.poll() is None:
            killed.append(victim)
        if victim == "driver":
            job.send_signal(signal.SIGKILL)
        elif victim == "node":
            nodes.kill_decoding_node()
        else:
            for process in actors_of(victim):
                process.kill()
        if victim == "driver":
            job.wait()
        else:
            assert job.wait(timeout=300) == 0, f"its {victim} was killed: {log.read_text()}"
            assert len(list(tokens.glob("*.parquet"))) == SHARDS
            for path in sorted(tokens.glob("*.parquet"))[shards % SHARDS :: 2]:
                path.unlink()  # work for the next kill
        assert tables(tokens).items() <= whole.items(), "a shard is under its final name and not whole"
    manifest = run(nodes, command(inputs, tmp_path))
    assert set(killed) >= {"Encoder", "Reader", "Writer", "node"}, killed
    assert tables(tokens) == whole
    assert manifest["rows_in"] == SHARDS * (ROWS + 1) and manifest["rejects_by_reason"] == {"bad picture": SHARDS}


def actors_of(name: str) -> list[psutil.Process]:
    """Processes of Ray whose actor is of this class."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = " ".join(process.info["cmdline"] or ())
        if words.startswith("ray::") and name in words:
            found.append(process)
    return found


@dataclass(frozen=True)
class Bucket:
    """A bucket with the corpus under `in`, which the nodes can read."""

    url: str
    server: FaultyServer

    def tables(self, folder: Path) -> dict:
        """The shards that a job wrote to `out`."""
        out = open_storage(f"{self.url}/out")
        for name in out.names():
            if name.endswith(".parquet"):
                with out.local(name) as path:
                    shutil.copyfile(path, folder / name)
        return tables(folder)


@pytest.fixture(params=["s3", "gs", "az"])
def bucket(
    nodes: Nodes,
    inputs: Path,
    server_of: ServerOf,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Bucket:
    bucket = Bucket(f"{request.param}://{BUCKET}", server_of(request.param))
    monkeypatch.delenv(OUTAGE_VARIABLE)  # the jobs set their own
    corpus = open_storage(f"{bucket.url}/in")
    for path in (inputs / "corpus").glob("*.tar"):
        corpus.write(path.name, partial(shutil.copyfile, path))
    nodes.renew()  # with the environment by which clients find the server
    return bucket


def through_bucket(bucket: Bucket, inputs: Path, root: Path, *words: str) -> list[str]:
    command_words = command(inputs, root, "--output", f"{bucket.url}/out", *words)
    command_words[command_words.index("--corpus") + 1] = f"{bucket.url}/in"
    return [word.replace("{'encoding': 1}", "{'decoding': 1}") for word in command_words]


def test_into_a_bucket_and_out_of_it_while_requests_fail(
    nodes: Nodes, inputs: Path, whole: dict, bucket: Bucket, tmp_path: Path
) -> None:
    server = bucket.server
    server.fault_every = 7
    manifest = run(nodes, through_bucket(bucket, inputs, tmp_path))
    server.fault_every = 0
    assert manifest["rows_out"] == SHARDS * ROWS and set(server.injected) == set(server.KINDS)
    assert bucket.tables(tmp_path) == whole


@pytest.mark.parametrize("away_s", [30.0, 600.0])
def test_an_outage_of_the_storage_is_waited_for_and_nothing_is_lost_or_doubled(
    nodes: Nodes, inputs: Path, whole: dict, bucket: Bucket, tmp_path: Path, away_s: float
) -> None:
    out = open_storage(f"{bucket.url}/out")

    def take_away() -> None:
        while not any(name.startswith("00") for name in out.names()):
            time.sleep(0.05)
        bucket.server.down = True
        time.sleep(away_s)
        bucket.server.down = False

    threading.Thread(target=take_away, daemon=True).start()
    words = through_bucket(bucket, inputs, tmp_path, "--set", f"outage_s={2 * away_s}")
    done = subprocess.run(
        words, env=os.environ | {"RAY_ADDRESS": nodes.cluster.address}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert f"waiting for {bucket.url}/" in done.stderr and bucket.server.turned_away > 2, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["rows_out"] == SHARDS * ROWS
    assert bucket.tables(tmp_path) == whole


def test_decoding_and_encoding_keep_to_their_nodes_and_no_picture_passes_the_driver(
    nodes: Nodes, inputs: Path, tmp_path: Path
) -> None:
    ray.init(nodes.cluster.address, log_to_driver=False)
    try:
        used: list[int] = []
        placed: dict[str, set[str | None]] = {}
        ended = threading.Event()
        head = next(node for node in ray.nodes() if not node["Resources"].get("CPU"))

        def watch() -> None:
            from ray._private.internal_api import node_stats
            from ray.util.state import list_actors

            while not ended.wait(0.2):
                stats = node_stats(head["NodeManagerAddress"], head["NodeManagerPort"]).store_stats
                used.append(stats.object_store_bytes_used)
                for actor in list_actors(filters=[("state", "=", "ALIVE")], detail=True):
                    for stage in ("Reader", "Encoder"):
                        if stage in (actor.class_name or "") + (actor.repr_name or "") + (actor.name or ""):
                            placed.setdefault(stage, set()).add(actor.node_id)

        watcher = threading.Thread(target=watch)
        watcher.start()
        run(nodes, command(inputs, tmp_path, "--resolution", "256"))
        ended.set()
        watcher.join()
        by_resource = {name: n["NodeID"] for n in ray.nodes() if n["Alive"] for name in n["Resources"]}
        assert placed == {"Reader": {by_resource["decoding"]}, "Encoder": {by_resource["encoding"]}}
        pictures = SHARDS * ROWS * 256 * 256 * 3
        assert max(used) < pictures / 20, f"{max(used)} bytes of {pictures} were at the driver"
    finally:
        ray.shutdown()


def test_memory_does_not_grow_with_the_corpus(inputs: Path, tmp_path: Path) -> None:
    """The pictures take ten times the object store's limit, in shards that are larger than that limit."""
    limit, size_px, rows_of = 80_000_000, 1400, {"small": 60, "large": 1800}
    for name, rows in rows_of.items():
        for start in range(0, rows, 300):
            path = tmp_path / name / f"{start:06d}.tar"
            write_noise_shard(path, start, min(300, rows - start), size_px, 0)
    bytes_in = sum(path.stat().st_size for path in (tmp_path / "large").glob("*.tar"))
    assert bytes_in > 10 * limit
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": limit})
    peaks = {}
    try:
        for name, rows in rows_of.items():
            words = command(inputs, tmp_path / f"{name} run", "--set", "tokenizers.reader_resources={}")
            words += ["--set", "tokenizers.encoder_resources={}"]
            words[words.index("--corpus") + 1] = str(tmp_path / name)
            words[words.index("--captions") + 1] = "en=caption_en"
            environment = os.environ | {"RAY_ADDRESS": cluster.address}
            with peak_memory() as peak:
                done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=1200, check=False)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout.splitlines()[-1])["rows_out"] == rows
            peaks[name] = peak[0]
    finally:
        cluster.shutdown()
    print(f"{bytes_in / 1e6:.0f} MB of pictures, object store {limit / 1e6:.0f} MB, peaks {peaks}")
    assert peaks["large"] < 1.25 * peaks["small"], peaks
