"""The whole way on a real Ray cluster with token authentication, typed as users type it, and bad input."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import tyro
from PIL import Image
from transformers import PreTrainedTokenizerFast

from jobs.common.exit_codes import exit_code_of
from pipeline.checkpoints.manifest import complete_checkpoints, write_manifest
from tests.support.browser import check_page
from tests.support.ports import free_port, wait_until_open
from tests.support.prometheus import Prometheus
from tests.support.small_run import ROWS, small_checkout, small_vqgan
from tokenization.files.storage import open_storage


class Cluster:
    """A copy of the checkout with a small `demo` recipe, and `ray start --head` running in it."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self.corpus = small_checkout(folder), folder / "corpus"
        self.runs = self.checkout / "runs" / "demo"
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.checkout),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",
        }
        self.port, dashboard = free_port(), free_port()
        ports = [f"--port={self.port}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"]
        # Else the agent that starts jobs gets none beside another cluster of this machine.
        ports.append(f"--dashboard-agent-listen-port={free_port()}")
        metrics_port = free_port()
        ports += [f"--metrics-export-port={metrics_port}", '--system-config={"metrics_report_interval_ms": 500}']
        self.prometheus = Prometheus(folder / "prometheus", metrics_port)
        self.process = subprocess.Popen(
            ["ray", "start", "--head", "--block", "--num-cpus=3", "--disable-usage-stats", *ports],
            cwd=self.checkout,
            env=self.environment,
            start_new_session=True,
            stdout=(folder / "ray.log").open("w"),
            stderr=subprocess.STDOUT,
        )
        self.environment["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard}"
        deadline = time.monotonic() + 90
        wait_until_open(dashboard, deadline)
        while self.type("ray", "job", "list").returncode:
            assert time.monotonic() < deadline, (folder / "ray.log").read_text()
            time.sleep(1)
        self.environment["RAY_ADDRESS"] = f"127.0.0.1:{self.port}"

    def type(self, *words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            words, cwd=self.checkout, env=self.environment, capture_output=True, text=True, timeout=300, check=False
        )

    def submit(self, *words: str) -> subprocess.CompletedProcess:
        environment = {name: value for name, value in self.environment.items() if name != "RAY_ADDRESS"}
        words = ("ray", "job", "submit", *words)
        return subprocess.run(
            words, cwd=self.checkout, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    def stop(self) -> None:
        """At once: a cluster of tests has nothing to save, and an orderly end takes half a minute."""
        self.prometheus.stop()
        processes = [self.process, *psutil.Process(self.process.pid).children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(timeout=60)
        _, alive = psutil.wait_procs(processes[1:], timeout=30)
        assert not alive


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def tokenized(cluster: Cluster) -> Cluster:
    done = cluster.submit("jobs/tokenize.py")
    assert done.returncode == 0, done.stdout + done.stderr
    return cluster


@pytest.fixture(scope="module")
def trained(tokenized: Cluster) -> Cluster:
    done = tokenized.type("python", "-m", "jobs.train_lm")
    assert done.returncode == 0, done.stderr
    done = tokenized.submit("jobs/train_stage.py")
    assert done.returncode == 0, done.stdout + done.stderr
    root = str(tokenized.runs.parent)
    words = ["jobs/train_stage.py", "--stage", "2", "--root", root, "--budget-gpu-days", "1"]
    words += ["--budget-gpu-days", "run=2"]
    done = tokenized.submit("--working-dir", ".", "--", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return tokenized


def test_the_literal_submit_tokenizes_the_recipes_corpus_and_closes_the_books(tokenized: Cluster) -> None:
    manifest = json.loads((tokenized.runs / "tokens" / "manifest.json").read_text())
    assert (manifest["rows_in"], manifest["rows_out"], manifest["rows_rejected"]) == (ROWS + 1, ROWS, 1)
    table = pq.read_table(tokenized.runs / "tokens" / "sub" / "00001.parquet")
    assert len(table) == 8 and table["sample_id"][0].as_py() == "sub/00001.tar/000000012"
    assert str(table.schema.field("codes").type) == "fixed_size_list<element: uint16>[4]"
    assert b"vq_sha256" in table.schema.metadata[b"mars.fingerprint"]
    reject = json.loads((tokenized.runs / "tokens" / "rejects" / "sub" / "00001.jsonl").read_text())
    assert (reject["key"], reject["reason"]) == ("broken", "bad picture")


def test_a_rerun_skips_what_is_done_in_every_form(tokenized: Cluster) -> None:
    path = tokenized.runs / "tokens" / "00000.parquet"
    before = path.stat().st_mtime_ns
    for form in (["python", "jobs/tokenize.py", "--json"], ["python", "-m", "jobs.tokenize", "--json"]):
        done = tokenized.type(*form)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["rows_out"] == ROWS
    assert path.stat().st_mtime_ns == before


def test_tokens_are_inspected(tokenized: Cluster) -> None:
    done = tokenized.type("python", "jobs/inspect_tokens.py", "--json", "--rows", "5")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (figures["rows"], figures["shards"], figures["rows_rejected"]) == (ROWS, 2, 1)
    assert figures["captions"]["zh"]["captions"] == ROWS and figures["keys_in_several_shards"] == 0
    assert 1 < figures["perplexity"] <= figures["codes_in_use"] <= 4 * ROWS
    assert Image.open(tokenized.runs / "tokens.png").width > 100


def test_codes_do_not_depend_on_what_ran_beside_them(tokenized: Cluster) -> None:
    """A shard tokenized alone has the very codes it got among others."""
    path = tokenized.runs / "tokens" / "00000.parquet"
    codes = pq.read_table(path)["codes"].to_pylist()
    path.unlink()
    assert tokenized.type("python", "jobs/tokenize.py").returncode == 0
    assert pq.read_table(path)["codes"].to_pylist() == codes


def test_both_stages_finish_and_the_ledger_counts_every_job(trained: Cluster) -> None:
    for number, steps in ((1, 3), (2, 2)):
        manifests = sorted((trained.runs / f"stage{number}" / "checkpoints").glob("*/manifest.json"))
        last = json.loads(manifests[-1].read_text())
        assert (last["step"], last["finished"], last["world_size"]) == (steps, True, 2)
        lines = (trained.runs / f"stage{number}" / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, steps + 1))
    rows = [json.loads(path.read_text().splitlines()[-1]) for path in (trained.runs / "ledger").glob("*.jsonl")]
    jobs = {(row["job"], row["stage"]): row for row in rows}
    assert {("tokenize", ""), ("train_lm", ""), ("train_stage", "1"), ("train_stage", "2")} <= jobs.keys()
    stage = jobs["train_stage", "1"]
    assert stage["event"] == "end: done" and stage["gpu_model"] == "CPU" and stage["gpu_count"] == 2
    assert stage["steps"] == 3 and stage["samples"] == 24 and stage["flop"] > 0
    assert stage["productive_seconds"] < stage["seconds"]


def test_every_query_of_the_dashboard_finds_the_run_in_prometheus(trained: Cluster) -> None:
    dashboard = json.loads((trained.checkout / "cluster" / "grafana" / "mars.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(queries) >= 12 and {panel["title"] for panel in dashboard["panels"]} >= {"MFU", "Loss by task"}
    for query in queries:
        filled = query.replace("$run", "demo").replace("$stage", ".*")
        found = trained.prometheus.values(filled)
        # On CPUs there is no peak, so no MFU: a query is good where it is understood.
        assert found or "ray_mars_mfu" in query, f"{filled}: nothing; {trained.prometheus.names('ray_mars_')}"
    losses = trained.prometheus.values('ray_mars_loss{run="demo", task="text_to_image"}')
    lines = [json.loads(line) for n in (1, 2) for line in (trained.runs / f"stage{n}" / "metrics.jsonl").open()]
    shown = [line["loss/text_to_image"] for line in lines]
    assert losses and all(min(abs(value - loss) for loss in shown) < 1e-5 for value in losses)
    share = trained.prometheus.values('ray_mars_budget_share{scope="stage", stage="2"}')
    assert share and 0 < share[-1] < 0.01


def test_what_was_spent_is_reported_and_adds_up(trained: Cluster) -> None:
    done = trained.type("python", "jobs/budget.py", "report", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert {row["job"] for row in figures["by_job"]} >= {"tokenize", "train_lm", "train_stage"}
    assert sum(figures["by_category"].values()) == pytest.approx(figures["gpu_days"])
    assert figures["budget_gpu_days"] == 2 and figures["by_category"]["productive"] > 0
    assert figures["forecast"]["done_share"] == pytest.approx(1)
    check_page(trained.runs / "budget.html", "budget-demo", num_pictures=2)


def test_at_its_budget_a_stage_stops_with_a_checkpoint_and_is_not_gone_on_with_until_it_is_raised(
    trained: Cluster, tmp_path: Path
) -> None:
    shutil.copytree(trained.runs, tmp_path / "demo", ignore=shutil.ignore_patterns("stage*", "ledger"))
    words = ["python", "jobs/train_stage.py", "--root", str(tmp_path), "--set", "stages.0.steps=4000"]
    done = trained.type(*words, "--stage", "1", "--budget-gpu-days", str(90 / 86_400))
    assert done.returncode == 5, done.stderr
    assert re.search(r"stage 1 has used .* CPU-days \(\d{3}%\); to go on, raise the limit", done.stderr), done.stderr
    assert "a checkpoint was written" in done.stderr
    (last, *_) = sorted((tmp_path / "demo" / "stage1" / "checkpoints").glob("*/manifest.json"))[-1:]
    manifest = json.loads(last.read_text())
    assert 0 < manifest["step"] < 4000 and not manifest["finished"]
    figures = json.loads((tmp_path / "demo" / "stage1" / "metrics.jsonl").read_text().splitlines()[-1])
    assert figures["step"] == manifest["step"], "nothing is lost"
    again = trained.type(*words, "--stage", "1")
    assert again.returncode == 5 and "raise the limit with --budget-gpu-days stage=DAYS" in again.stderr


def test_when_all_stages_are_finished_a_rerun_says_so(trained: Cluster) -> None:
    done = trained.type("python", "jobs/train_stage.py")
    assert done.returncode == 0 and "all 2 stages of 'demo' are finished" in done.stderr


def test_generation_evaluation_and_report_close_the_run(trained: Cluster) -> None:
    for job in ("generate", "evaluate", "report"):
        done = trained.type("python", f"jobs/{job}.py")
        assert done.returncode == 0, done.stderr
    metrics = json.loads((trained.runs / "metrics.json").read_text())
    assert metrics["corpus_rows"] == ROWS + 1 and metrics["trained_drawings"] == ROWS
    assert metrics["text_logits_max_abs_diff"] == 0 and metrics["visual_weights_moved"] is True
    assert 0 <= metrics["t2i_retrieval_en"] <= 1 and metrics["vq_psnr_db"] > 0
    report = (trained.runs / "report.html").read_text()
    assert report.count("data:image/png;base64,") == 3 and "CPU-days" in report
    assert "OpenMoji" not in report, "a corpus of one's own is not the demo's"
    assert "http" not in report.split("<body>")[0], "the report must open without a network"
    check_page(trained.runs / "report.html", "report", num_pictures=3)
    done = trained.type("python", "jobs/generate.py", "--prompt", "a red cat", "--prompt", "红猫")
    assert done.returncode == 0, done.stderr
    made = trained.runs / "samples" / "prompts" / "0001"
    assert len(list((made / "pictures").glob("*.png"))) == 2 and (made / "grid.png").exists()
    again = trained.type("python", "jobs/generate.py", "--task", "joint", "--prompt", "soup", "--max-text-ids", "9")
    assert again.returncode == 0, again.stderr
    assert (made.with_name("0002") / "index.html").exists() and (made / "index.parquet").exists()
    picture = next((made / "pictures").glob("*.png"))
    done = trained.type("python", "jobs/generate.py", "--task", "caption", "--image", str(picture), "--language", "zh")
    assert done.returncode == 0, done.stderr
    assert json.loads((made.with_name("0003") / "index.jsonl").read_text())["language"] == "zh"


def test_a_finished_run_is_exported_with_its_card(trained: Cluster, tmp_path: Path) -> None:
    done = trained.type("python", "jobs/export_model.py", "--checkpoint", "runs/demo", "--out", str(tmp_path / "model"))
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "model" / "README.md").read_text()
    assert "of stage 2" in card and "CPU-days" in card and "train_stage" in card
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in (tmp_path / "model").iterdir()
    }


def test_a_vqgan_is_trained_resumed_measured_and_described(cluster: Cluster, tmp_path: Path) -> None:
    small = "(8,8,8,8,8)"
    words = ["--root", str(tmp_path), "--set", f"vqgan.block_out_channels={small}", "--set", "vqgan.latent_channels=4"]
    words += ["--set", "vqgan.image_size_px=32", "--set", "vqgan.codebook_size=64", "--set", "vqgan.save_every_steps=2"]
    words += ["--set", "vqgan.noise_steps=2", "--set", "vqgan.perceptual_weight=0.1"]
    words += ["--set", "vqgan.adversarial_weight=0.1", "--set", "vqgan.adversarial_start_step=3"]
    words += ["--set", "vqgan.log_every_steps=1", "--set", "vqgan.decoder_only_steps=1"]
    first = cluster.type("python", "jobs/train_vqgan.py", *words, "--set", "vqgan.steps=4")
    assert first.returncode == 0, first.stderr
    second = cluster.type("python", "jobs/train_vqgan.py", *words, "--set", "vqgan.steps=6")
    assert second.returncode == 0, second.stderr
    assert "step 5/6" in second.stderr and "step 4/6" not in second.stderr
    card = (tmp_path / "demo" / "vq" / "README.md").read_text()
    assert "dB" in card and "vqgan.steps=6" in card and f"| pictures measured | {ROWS:,} |" in card
    assert (tmp_path / "demo" / "vq" / "diffusion_pytorch_model.safetensors").exists()


REFUSED = [
    (["tokenize.py", "--root", "s3://bucket/runs"], 2, "s3://bucket/runs"),
    (["tokenize.py", "--corpus", "{empty}"], 3, "does not exist or is empty"),
    (["tokenize.py", "--captions", "caption"], 2, "--captions 'caption': write LANGUAGE=COLUMN"),
    (["tokenize.py", "--max-pixels", "-1"], 2, "--max-pixels is -1"),
    (["train_stage.py", "--root", "{empty}"], 3, "no config.json"),
    (["train_stage.py", "--stage", "7"], 2, "stages 1 to 2"),
    (["generate.py", "--root", "{empty}"], 3, "run jobs/tokenize.py first"),
    (
        [
            "train_stage.py",
            "--set",
            "stages.1.sources.main.where=beauty>1",
            "--stage",
            "2",
            "--root",
            "{unfinished}",
        ],
        3,
        "beauty",
    ),
    (["train_stage.py", "--set", "stages.1.seq_len=20", "--stage", "2", "--root", "{unfinished}"], 2, "seq_len 20"),
    (["train_stage.py", "--set", "vqgan_folder={other_vqgan}", "--root", "{unfinished}"], 3, "another VQ-GAN than"),
    (["generate.py", "--set", "text_tokenizer={other_text}", "--root", "{unfinished}"], 3, "another text vocab"),
]


@pytest.mark.parametrize(("words", "code", "message"), REFUSED)
def test_bad_input_is_refused_before_ray_starts(
    trained: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, message: str
) -> None:
    monkeypatch.setattr("pipeline.runtime.ray_connection.connect_to_ray", lambda: pytest.fail("Ray was started for it"))
    spec = spec_from_file_location("demo", trained.checkout / "jobs" / "recipes" / "demo.py")
    assert spec is not None
    recipe = module_from_spec(spec)
    spec.loader.exec_module(recipe)
    monkeypatch.setitem(sys.modules, "jobs.recipes.demo", recipe)
    job = import_module(f"jobs.{words[0].removesuffix('.py')}")
    words = completed(words[1:], trained, tmp_path)
    with pytest.raises(Exception, match=re.escape(message)) as caught:
        job.main(tyro.cli(job.Options, args=words))
    assert exit_code_of(caught.value) == code
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()], "something half-written was left behind"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["tokenize.py", "--set", "stages.0.stepz=1"], 2, "no 'stepz'; the keys here are"),
        (["tokenize.py", "--corpus", "/no/such/folder"], 3, "'/no/such/folder' does not exist"),
        (["tokenize.py", "--set", "vqgan_folder=/no/vq"], 3, "'/no/vq' is no saved VQModel"),
        (["tokenize.py", "--corpus", "{bad}"], 4, "failed: shard 'bad.tar' of"),
    ],
)
def test_bad_input_is_one_line_with_the_name_the_rule_and_the_exit_code(
    trained: Cluster, tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    done = trained.type("python", f"jobs/{words[0]}", *completed(words[1:], trained, tmp_path))
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith(("error:", "failed:"))]
    assert any(message in line for line in errors), done.stderr
    assert "Traceback" not in done.stderr
    if code == 4:
        assert (tmp_path / "demo" / "tokens" / "good.parquet").exists()
        assert not (tmp_path / "demo" / "tokens" / "bad.parquet").exists()
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()], "something half-written was left behind"


def completed(words: list[str], trained: Cluster, folder: Path) -> list[str]:
    """The words with the folders they name in braces made, and a root."""
    folders = {name: folder / name for name in ("empty", "bad", "unfinished", "other_vqgan", "other_text")}
    for one in folders.values():
        one.mkdir()
    if "{other_vqgan}" in " ".join(words):
        small_vqgan(0.5).save_pretrained(folders["other_vqgan"])
    if "{other_text}" in " ".join(words):
        text = PreTrainedTokenizerFast.from_pretrained(next((trained.runs / "text").iterdir()))
        text.add_tokens(["<|another|>"])
        text.save_pretrained(folders["other_text"])
    shutil.copy(trained.corpus / "00000.tar", folders["bad"] / "good.tar")
    (folders["bad"] / "bad.tar").write_bytes(b"no tar at all" * 99)
    if "{unfinished}" in words:
        copied = shutil.ignore_patterns("stage2", "ray_train")
        shutil.copytree(trained.runs, folders["unfinished"] / "demo", ignore=copied)
    words = [word.format(**folders) for word in words]
    return words if "--root" in words else [*words, "--root", str(folder)]


def test_tokens_of_another_kind_are_not_mixed_in(tokenized: Cluster) -> None:
    done = tokenized.type("python", "jobs/tokenize.py", "--set", "tokenization.max_caption_ids=5")
    assert done.returncode == 3 and "another max_caption_ids (77, not 5)" in done.stderr


def test_training_refuses_a_changed_recipe_in_the_same_place(trained: Cluster, tmp_path: Path) -> None:
    shutil.copytree(trained.runs, tmp_path / "demo")
    checkpoints = tmp_path / "demo" / "stage2" / "checkpoints"
    for checkpoint in complete_checkpoints(str(checkpoints), []):
        unfinished = replace(checkpoint.manifest, finished=False)
        write_manifest(open_storage(checkpoints), checkpoint.name, unfinished)
    words = ["--stage", "2", "--root", str(tmp_path), "--set", "stages.1.steps=9"]
    done = trained.type("python", "jobs/train_stage.py", *words)
    assert done.returncode == 3 and "made with other stage settings" in done.stderr, done.stderr


def test_a_step_run_twice_on_the_workers_is_the_same_and_nothing_is_written(trained: Cluster) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.runs.glob("stage*/**/*") if path.is_file()}
    done = trained.type("python", "jobs/train_stage.py", "--verify-step", "--stage", "2")
    assert done.returncode == 0 and "run twice is the same, bit for bit" in done.stderr, done.stdout + done.stderr
    after = {path: path.stat().st_mtime_ns for path in trained.runs.glob("stage*/**/*") if path.is_file()}
    assert {path for path in after if before.get(path) != after[path] and "ray_train" not in path.parts} == set()
