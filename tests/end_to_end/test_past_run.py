"""A small run that past code began goes on, is exported and reported: see the README in `past_run`."""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from ray.cluster_utils import Cluster

from pipeline.checkpoints.manifest import newest_complete
from pipeline.step_figures import VALIDATION_FILE, read_step_figures, read_validations
from tests.support.checkout import CHECKOUT
from tests.support.forked_jobs import run_forked_job, start_job
from tests.support.past_run import PAST_RUN, RECIPE, copy_past_inputs, copy_past_run
from tests.support.small_ray import small_ray

PROMPT = "red circle"


class Copy:
    """The past run in a new folder, and its jobs as users type them."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.run = folder, copy_past_run(folder)
        self._environment = os.environ | {"RAY_ADDRESS": address}

    def type(self, job: str, *words: str) -> subprocess.CompletedProcess:
        where = ["--recipe", str(self.folder / "recipe.py"), "--root", str(self.folder)]
        done = run_forked_job([f"jobs/{job}.py", *words, *where], self._environment, CHECKOUT, timeout_s=600)
        assert done.returncode == 0, f"{job} {words}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done

    def python(self, code: str) -> subprocess.CompletedProcess:
        words = [sys.executable, "-c", code]
        return subprocess.run(
            words, cwd=CHECKOUT, env=self._environment, capture_output=True, text=True, timeout=600, check=True
        )

    def token_times(self) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in self.run.rglob("tokens/**/*.parquet")}


def go_on(copy: Copy) -> dict[str, Any]:
    """Ends the second stage, exports it and reports what it took."""
    (interrupted,) = (copy.run / "stage2" / "checkpoints").glob("step-*")
    interrupted_step = int(interrupted.name.split("-")[1])
    said = copy.type("train_stage", "--stage", "2").stderr
    copy.type("export_model", "--checkpoint", str(copy.run), "--out", str(copy.folder / "exported"))
    (folder,) = (copy.run / "stage2" / "checkpoints").glob("step-*")
    manifest = json.loads((folder / "manifest.json").read_text())
    identity = ("step", "samples", "world_size", "finished", "recipe_sha256", "base_sha256", "row_index_sha256")
    figures = [json.loads(line) for line in (copy.run / "stage2" / "metrics.jsonl").read_text().splitlines()]
    losses = ("loss/", "validation/", "gradient_norm", "learning_rate")
    exported = copy.folder / "exported"
    return {
        "went_on": f"resumes from step {interrupted_step}" in said,
        "checkpoint": {name: manifest[name] for name in (*identity, "initial_sha256", "picture_position_std")},
        "blocks": {name: file["blocks"] for name, file in manifest["files"].items()},
        "steps": [line["step"] for line in figures],
        "losses": {
            str(line["step"]): {name: value for name, value in line.items() if name.startswith(losses)}
            for line in figures
            if line["step"] > interrupted_step
        },
        "exported": sorted(path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()),
        "exported_sha256": {name: sha256(exported / name) for name in ("model.safetensors", "config.json")},
        "spent": last_line(copy.type("budget", "report", "--json")),
    }


def look(copy: Copy) -> dict[str, Any]:
    """Tokenizes where nothing is left to do, writes the report, and draws with the export."""
    before = copy.token_times()
    books = last_line(copy.type("tokenize", "--json"))
    untouched = copy.token_times() == before
    copy.type("report")
    card = (copy.folder / "export" / "README.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    given = f"FOLDER, PROMPT = {str(copy.folder / 'export')!r}, {PROMPT!r}\n"
    shown = "import json\nprint(json.dumps({'codes': codes.tolist(), 'pixels': [*pixels.shape, str(pixels.dtype)]}))"
    return {
        "untouched": untouched,
        "rows": {name: books[name] for name in ("rows_in", "rows_out", "rows_hr", "rejects_by_reason", "codes_in_use")},
        "fingerprints": {"shapes": books["fingerprint"], "pages": books["further_corpora"]["pages"]["fingerprint"]},
        "drawn": last_line(copy.python(f"{given}{snippet}{shown}")),
        "report": (copy.run / "report.html").read_text(),
    }


def inspect(copy: Copy) -> dict[str, Any]:
    """The statistics of the tokens."""
    return {"statistics": last_line(copy.type("inspect_tokens", "--json", "--rows", "2"))}


def last_line(done: subprocess.CompletedProcess) -> Any:
    return json.loads(done.stdout.splitlines()[-1])


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    """The results that past code itself got from the run."""
    figures: dict[str, Any] = json.loads((PAST_RUN / "expected.json").read_text())
    return figures


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with small_ray() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def begun(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future]]:
    """Two copies, each with its jobs: one core each."""
    folder = tmp_path_factory.mktemp("past")
    with ThreadPoolExecutor(2) as pool:
        yield {do.__name__: pool.submit(do, Copy(folder / do.__name__, cluster.address)) for do in (go_on, look)}


@pytest.fixture(scope="module")
def ended(begun: dict[str, Future]) -> dict[str, Any]:
    result: dict[str, Any] = begun["go_on"].result()
    return result


@pytest.fixture(scope="module")
def looked_at(begun: dict[str, Future]) -> dict[str, Any]:
    result: dict[str, Any] = begun["look"].result()
    return result


def test_its_interrupted_stage_goes_on_and_ends_as_past_code_ended_it(
    ended: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert ended["went_on"] and ended["checkpoint"] == expected["checkpoint"]
    assert ended["steps"] == list(range(1, 41)), "each step is there once"
    assert ended["losses"].keys() == expected["losses"].keys()
    for step, losses in expected["losses"].items():
        assert ended["losses"][step] == pytest.approx(losses, rel=1e-6), step
    if ended["losses"] == expected["losses"]:  # else this CPU adds up in another order
        assert ended["blocks"] == expected["blocks"]


def test_it_is_exported_as_past_code_exported_it(ended: dict[str, Any], expected: dict[str, Any]) -> None:
    assert ended["exported"] == expected["exported"]
    assert ended["exported_sha256"]["config.json"] == expected["exported_sha256"]["config.json"]
    if ended["blocks"] == expected["blocks"]:
        assert ended["exported_sha256"] == expected["exported_sha256"]


def test_its_ledger_is_read_and_gone_on_with(ended: dict[str, Any], expected: dict[str, Any]) -> None:
    spent = ended["spent"]
    assert sorted(spent) == expected["budget_report_keys"]
    assert [[row["job"], row["stage"], row["outcome"]] for row in spent["by_attempt"]] == expected["attempts"]
    assert sum(spent["by_category"].values()) == pytest.approx(spent["gpu_days"])


def test_its_tokens_are_known_as_finished_and_have_the_same_fingerprints(
    looked_at: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert looked_at["untouched"]
    assert looked_at["rows"] == expected["rows"] and looked_at["fingerprints"] == expected["fingerprints"]
    shards = {"shapes": PAST_RUN / "past" / "tokens" / "00000.parquet"}
    shards["pages"] = PAST_RUN / "past" / "corpora" / "pages" / "tokens" / "pages.parquet"
    for name, path in shards.items():
        assert json.loads(pq.read_metadata(path).metadata[b"mars.fingerprint"]) == looked_at["fingerprints"][name]


def test_its_report_shows_both_stages_and_its_pictures(looked_at: dict[str, Any]) -> None:
    assert looked_at["report"].count("data:image/png;base64,") == 8 and "train_stage 2" in looked_at["report"]


def test_an_export_of_past_code_draws_by_the_words_of_its_own_card(
    looked_at: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert looked_at["drawn"] == expected["drawn"]


def test_sigterm_saves_and_ends_with_its_exit_code_and_the_same_command_goes_on(
    cluster: Cluster, ended: dict[str, Any], tmp_path: Path
) -> None:
    """Runs the first stage again from its start. The stage that past code trained is the undisturbed run.

    It is validated beside the training. Past code validated in the loop.
    """
    run, log = copy_past_inputs(tmp_path), tmp_path / "log"
    words = ["jobs/train_stage.py", "--recipe", str(RECIPE), "--stage", "1", "--root", str(tmp_path)]
    words += ["--set", "scaling.async_validation=True", "--set", "stages.0.validate_every_steps=8"]
    job = start_job(words, os.environ | {"RAY_ADDRESS": cluster.address}, CHECKOUT, log, log)
    while not read_step_figures(run / "stage1"):  # a quick machine takes all 24 steps within two seconds
        assert job.is_alive(), log.read_text()
        time.sleep(0.02)
    job.terminate()
    job.join(120)
    assert job.exitcode == 7, log.read_text()
    saved = newest_complete(str(run / "stage1" / "checkpoints")).manifest.step
    assert saved == read_step_figures(run / "stage1")[-1].step < 24, "nothing that was learned is lost"
    assert "a checkpoint was written; run the same command again to resume from it" in log.read_text().replace(
        "\n", " "
    )
    done = run_forked_job(words, os.environ | {"RAY_ADDRESS": cluster.address}, CHECKOUT)
    assert done.returncode == 0, done.stderr
    figures, past = (read_step_figures(folder / "past" / "stage1") for folder in (tmp_path, PAST_RUN))
    assert [each.step for each in figures] == list(range(1, 25)), "each step is there once"
    for own, undisturbed in zip(figures, past, strict=True):
        assert own.losses == pytest.approx(undisturbed.losses, rel=1e-6), own.step
    validated = read_validations(tmp_path / "past" / "stage1")
    assert [each.step for each in validated] == [8, 16, 24], "each once, though the job ended in between"
    assert figures[-1].validation == pytest.approx(past[-1].validation, rel=1e-6) and past[-1].validation
    assert [each.step for each in figures if each.validation] == [8, 16, 24]
    (kept,) = (tmp_path / "past" / "stage1" / "checkpoints").glob("step-*")
    assert kept.name == validated[-1].checkpoint, "the others were kept for their validation alone"


@pytest.mark.long
def test_its_tokens_are_inspected_as_past_code_inspected_them(tmp_path: Path, expected: dict[str, Any]) -> None:
    assert inspect(Copy(tmp_path / "inspect", "local"))["statistics"] == expected["statistics"]


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_validation_beside_the_training_is_that_of_the_loop_bit_for_bit(
    cluster: Cluster, tmp_path: Path, dtype: str
) -> None:
    """ZeRO-3 has a linear layer of its own, which rounds otherwise in bfloat16."""
    validations, pictures = [], []
    for beside in (False, True):
        stage = copy_past_inputs(tmp_path / str(beside)) / "stage1"
        words = ["jobs/train_stage.py", "--recipe", str(RECIPE), "--stage", "1", "--root", str(stage.parent.parent)]
        for value in (
            f"scaling.async_validation={beside}",
            f"zero.dtype={dtype}",
            "stages.0.validate_every_steps=8",
            "stages.0.sample_every_steps=12",
            f"stages.0.sample_prompts=('{PROMPT}',)",
        ):
            words += ["--set", value]
        done = run_forked_job(words, os.environ | {"RAY_ADDRESS": cluster.address}, CHECKOUT)
        assert done.returncode == 0, done.stderr
        validations.append({each.step: each.validation for each in read_step_figures(stage) if each.validation})
        pictures.append({path.name: path.read_bytes() for path in stage.glob("samples/*.png")})
    assert validations[0] == validations[1] and set(validations[0]) == {8, 16, 24}
    assert pictures[0] == pictures[1] and len(pictures[0]) == 2

    # As if the job had been killed while it waited for the last one.
    file = stage / VALIDATION_FILE
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]))
    done = run_forked_job(words, os.environ | {"RAY_ADDRESS": cluster.address}, CHECKOUT)
    assert done.returncode == 0 and "its last checkpoint is validated now" in done.stderr, done.stderr
    again = json.loads(file.read_text().splitlines()[-1])
    assert again | {"seconds": 0} == json.loads(lines[-1]) | {"seconds": 0}
    done = run_forked_job(words, os.environ | {"RAY_ADDRESS": cluster.address}, CHECKOUT)
    assert done.returncode == 0 and "is already finished" in done.stderr, done.stderr
