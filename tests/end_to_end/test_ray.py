"""The whole way on a real Ray cluster with token authentication, typed as users type it, and bad input."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.checkpoints.manifest import complete_checkpoints, write_manifest
from tests.support.browser import check_page
from tests.support.small_cluster import SmallCluster
from tests.support.small_run import ROWS
from tokenization.files.storage import open_storage


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallCluster]:
    cluster = SmallCluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def tokenized(cluster: SmallCluster) -> SmallCluster:
    done = cluster.submit("jobs/tokenize.py")
    assert done.returncode == 0, done.stdout + done.stderr
    return cluster


@pytest.fixture(scope="module")
def trained(tokenized: SmallCluster) -> SmallCluster:
    done = tokenized.run("train_lm")
    assert done.returncode == 0, done.stderr
    done = tokenized.submit("jobs/train_stage.py")
    assert done.returncode == 0, done.stdout + done.stderr
    root = str(tokenized.runs.parent)
    words = ["jobs/train_stage.py", "--stage", "2", "--root", root, "--budget-gpu-days", "1"]
    words += ["--budget-gpu-days", "run=2"]
    done = tokenized.submit("--working-dir", ".", "--", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return tokenized


def test_the_literal_submit_tokenizes_the_recipes_corpus_and_closes_the_books(tokenized: SmallCluster) -> None:
    manifest = json.loads((tokenized.runs / "tokens" / "manifest.json").read_text())
    assert (manifest["rows_in"], manifest["rows_out"], manifest["rows_rejected"]) == (ROWS + 1, ROWS, 1)
    table = pq.read_table(tokenized.runs / "tokens" / "sub" / "00001.parquet")
    assert len(table) == 8 and table["sample_id"][0].as_py() == "sub/00001.tar/000000012"
    assert str(table.schema.field("codes").type) == "fixed_size_list<element: uint16>[4]"
    assert b"vq_sha256" in table.schema.metadata[b"mars.fingerprint"]
    reject = json.loads((tokenized.runs / "tokens" / "rejects" / "sub" / "00001.jsonl").read_text())
    assert (reject["key"], reject["reason"]) == ("broken", "bad picture")


def test_a_rerun_makes_the_missing_shard_anew_and_then_has_nothing_to_do(tokenized: SmallCluster) -> None:
    """Uses two more forms of the command. A shard that is tokenized alone has the same codes as among others."""
    path = tokenized.runs / "tokens" / "00000.parquet"
    codes = pq.read_table(path)["codes"].to_pylist()
    path.unlink()
    done = tokenized.type("python", "jobs/tokenize.py", "--json")
    assert done.returncode == 0, done.stderr
    assert pq.read_table(path)["codes"].to_pylist() == codes
    before = path.stat().st_mtime_ns
    again = tokenized.type("python", "-m", "jobs.tokenize", "--json")
    assert again.returncode == 0, again.stderr
    assert all(json.loads(each.stdout.splitlines()[-1])["rows_out"] == ROWS for each in (done, again))
    assert path.stat().st_mtime_ns == before


def test_tokens_are_inspected(tokenized: SmallCluster) -> None:
    done = tokenized.run("inspect_tokens", "--json", "--rows", "5")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (figures["rows"], figures["shards"], figures["rows_rejected"]) == (ROWS, 2, 1)
    assert figures["captions"]["zh"]["captions"] == ROWS and figures["keys_in_several_shards"] == 0
    assert 1 < figures["perplexity"] <= figures["codes_in_use"] <= 4 * ROWS
    assert Image.open(tokenized.runs / "tokens.png").width > 100


def test_both_stages_finish_and_the_ledger_counts_every_job(trained: SmallCluster) -> None:
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


def test_every_query_of_the_dashboard_finds_the_run_in_prometheus(trained: SmallCluster) -> None:
    dashboard = json.loads((trained.checkout / "cluster" / "grafana" / "mars.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(queries) >= 12 and {panel["title"] for panel in dashboard["panels"]} >= {"MFU", "Loss by task"}
    for query in [query for query in queries if "ray_mars_serve" not in query]:  # `test_serve` looks at those
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
    trained.prometheus.stop()


def test_what_was_spent_is_reported_and_adds_up(trained: SmallCluster) -> None:
    done = trained.run("budget", "report", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert {row["job"] for row in figures["by_job"]} >= {"tokenize", "train_lm", "train_stage"}
    assert sum(figures["by_category"].values()) == pytest.approx(figures["gpu_days"])
    assert figures["budget_gpu_days"] == 2 and figures["by_category"]["productive"] > 0
    assert figures["forecast"]["done_share"] == pytest.approx(1)
    check_page(trained.runs / "budget.html", "budget-demo", num_pictures=2)


def test_at_its_budget_a_stage_stops_with_a_checkpoint_and_is_not_gone_on_with_until_it_is_raised(
    trained: SmallCluster, tmp_path: Path
) -> None:
    shutil.copytree(trained.runs, tmp_path / "demo", ignore=shutil.ignore_patterns("stage*", "ledger"))
    words = ["train_stage", "--root", str(tmp_path), "--set", "stages.0.steps=4000", "--set", "scaling.num_workers=1"]
    done = trained.run(*words, "--stage", "1", "--budget-gpu-days", str(8 / 86_400))
    assert done.returncode == 5, done.stderr
    assert re.search(r"stage 1 has used .* CPU-days \(\d{3}%\); to go on, raise the limit", done.stderr), done.stderr
    assert "a checkpoint was written" in done.stderr
    (last, *_) = sorted((tmp_path / "demo" / "stage1" / "checkpoints").glob("*/manifest.json"))[-1:]
    manifest = json.loads(last.read_text())
    assert 0 < manifest["step"] < 4000 and not manifest["finished"]
    figures = json.loads((tmp_path / "demo" / "stage1" / "metrics.jsonl").read_text().splitlines()[-1])
    assert figures["step"] == manifest["step"], "nothing is lost"
    again = trained.run(*words, "--stage", "1")
    assert again.returncode == 5 and "raise the limit with --budget-gpu-days stage=DAYS" in again.stderr


def test_when_all_stages_are_finished_a_rerun_says_so(trained: SmallCluster) -> None:
    done = trained.run("train_stage")
    assert done.returncode == 0 and "all 2 stages of 'demo' are finished" in done.stderr


def test_generation_evaluation_and_report_close_the_run(trained: SmallCluster) -> None:
    for job in ("generate", "evaluate", "report"):
        done = trained.run(job)
        assert done.returncode == 0, done.stderr
    metrics = json.loads((trained.runs / "metrics.json").read_text())
    assert metrics["corpus_rows"] == ROWS + 1 and metrics["trained_drawings"] == ROWS
    assert metrics["text_logits_max_abs_diff"] == 0 and metrics["visual_weights_moved"] is True
    assert 0 <= metrics["t2i_retrieval_en"] <= 1 and metrics["vq_psnr_db"] > 0
    report = (trained.runs / "report.html").read_text()
    assert report.count("data:image/png;base64,") == 6 and "CPU-days" in report
    assert "OpenMoji" not in report, "a corpus of one's own is not the demo's"
    assert "http" not in report.split("<body>")[0], "the report must open without a network"
    check_page(trained.runs / "report.html", "report", num_pictures=6)
    done = trained.run("generate", "--prompt", "a red cat", "--prompt", "红猫")
    assert done.returncode == 0, done.stderr
    made = trained.runs / "samples" / "prompts" / "0001"
    assert len(list((made / "pictures").glob("*.png"))) == 2 and (made / "grid.png").exists()
    again = trained.run("generate", "--task", "joint", "--prompt", "soup", "--max-text-ids", "9")
    assert again.returncode == 0, again.stderr
    assert (made.with_name("0002") / "index.html").exists() and (made / "index.parquet").exists()
    picture = next((made / "pictures").glob("*.png"))
    done = trained.run("generate", "--task", "caption", "--image", str(picture), "--language", "zh")
    assert done.returncode == 0, done.stderr
    assert json.loads((made.with_name("0003") / "index.jsonl").read_text())["language"] == "zh"
    done = trained.run("generate", "--prompt", "a red cat", "--num-drafts", "5")
    assert done.returncode == 0, done.stderr
    plain, drafted = (pq.read_table(made.with_name(name) / "index.parquet").to_pylist() for name in ("0001", "0004"))
    assert drafted[0]["codes"] == plain[0]["codes"], "drafts change the time, not the picture"


def test_a_finished_run_is_exported_with_its_card(trained: SmallCluster, tmp_path: Path) -> None:
    done = trained.run("export_model", "--checkpoint", "runs/demo", "--out", str(tmp_path / "model"))
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "model" / "README.md").read_text()
    assert "of stage 2" in card and "CPU-days" in card and "train_stage" in card
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in (tmp_path / "model").iterdir()
    }


def test_a_vqgan_is_trained_resumed_measured_and_described(cluster: SmallCluster, tmp_path: Path) -> None:
    small = "(8,8,8,8,8)"
    words = ["--root", str(tmp_path), "--set", f"vqgan.block_out_channels={small}", "--set", "vqgan.latent_channels=4"]
    words += ["--set", "vqgan.image_size_px=32", "--set", "vqgan.codebook_size=64", "--set", "vqgan.save_every_steps=2"]
    words += ["--set", "vqgan.noise_steps=2", "--set", "vqgan.perceptual_weight=0.1"]
    words += ["--set", "vqgan.synthetic_share=0.5"]
    words += ["--set", "vqgan.adversarial_weight=0.1", "--set", "vqgan.adversarial_start_step=3"]
    words += ["--set", "vqgan.log_every_steps=1", "--set", "vqgan.decoder_only_steps=1"]
    first = cluster.run("train_vqgan", *words, "--set", "vqgan.steps=4")
    assert first.returncode == 0, first.stderr
    second = cluster.run("train_vqgan", *words, "--set", "vqgan.steps=6", "--set", "scaling.num_workers=1")
    assert second.returncode == 0, second.stderr
    assert "step 5/6" in second.stderr and "step 4/6" not in second.stderr
    card = (tmp_path / "demo" / "vq" / "README.md").read_text()
    assert "dB" in card and "vqgan.steps=6" in card and f"| pictures measured | {ROWS:,} |" in card
    assert (tmp_path / "demo" / "vq" / "diffusion_pytorch_model.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--set", "stages.0.stepz=1"], 2, "no 'stepz'; the keys here are"),
        (["--corpus", "/no/such/folder"], 3, "'/no/such/folder' does not exist"),
        (["--set", "vqgan_folder=/no/vq"], 3, "VQ-GAN '/no/vq' does not exist"),
        (["--corpus", "{bad}"], 4, "failed: shard 'bad.tar' of"),
    ],
)
def test_bad_input_is_one_line_with_the_name_the_rule_and_the_exit_code(
    trained: SmallCluster, tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    shutil.copy(trained.corpus / "00000.tar", bad / "good.tar")
    (bad / "bad.tar").write_bytes(b"no tar at all" * 99)
    done = trained.run("tokenize", *(word.format(bad=bad) for word in words), "--root", str(tmp_path))
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith(("error:", "failed:"))]
    assert any(message in line for line in errors), done.stderr
    assert "Traceback" not in done.stderr
    if code == 4:
        assert (tmp_path / "demo" / "tokens" / "good.parquet").exists()
        assert not (tmp_path / "demo" / "tokens" / "bad.parquet").exists()
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()], "something half-written was left behind"


def test_tokens_of_another_kind_are_not_mixed_in(tokenized: SmallCluster) -> None:
    done = tokenized.run("tokenize", "--set", "tokenization.max_caption_ids=5")
    assert done.returncode == 3 and "another max_caption_ids (77, not 5)" in done.stderr


def test_training_refuses_a_changed_recipe_in_the_same_place(trained: SmallCluster, tmp_path: Path) -> None:
    shutil.copytree(trained.runs, tmp_path / "demo")
    checkpoints = tmp_path / "demo" / "stage2" / "checkpoints"
    for checkpoint in complete_checkpoints(str(checkpoints), []):
        unfinished = replace(checkpoint.manifest, finished=False)
        write_manifest(open_storage(checkpoints), checkpoint.name, unfinished)
    words = ["--stage", "2", "--root", str(tmp_path), "--set", "stages.1.steps=9"]
    done = trained.run("train_stage", *words)
    assert done.returncode == 3 and "made with other stage settings" in done.stderr, done.stderr


def test_a_step_run_twice_on_the_workers_is_the_same_and_nothing_is_written(trained: SmallCluster) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.runs.glob("stage*/**/*") if path.is_file()}
    done = trained.run("train_stage", "--verify-step", "--stage", "2", "--set", "scaling.num_workers=1")
    assert done.returncode == 0 and "run twice is the same, bit for bit" in done.stderr, done.stdout + done.stderr
    after = {path: path.stat().st_mtime_ns for path in trained.runs.glob("stage*/**/*") if path.is_file()}
    assert {path for path in after if before.get(path) != after[path] and "ray_train" not in path.parts} == set()


def test_more_steps_than_a_finished_stage_did_are_refused_with_what_to_do(trained: SmallCluster) -> None:
    done = trained.run("train_stage", "--stage", "2", "--set", "stages.1.steps=5")
    assert done.returncode == 3, done.stderr
    (line,) = done.stderr.splitlines()
    assert "finished after 2 steps, and the recipe asks for 5; add --extend" in line
    words = ["--extend", "--set", "stages.1.steps=5", "--set", "stages.1.seq_len=200"]
    done = trained.run("train_stage", "--stage", "2", *words)
    assert done.returncode == 3 and "seq_len changed besides the steps" in done.stderr.splitlines()[-1], done.stderr
