"""A benchmark's pictures go where its scorer looks, the same command resumes, and another one is refused."""

import io
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.common.recipes import load_recipe
from pipeline.config.vocabulary import Role
from pipeline.errors import InputError
from pipeline.evaluation.suites import SuitePrompt
from pipeline.generation.documents import DocumentLimits
from pipeline.generation.pictures import HighResolution
from pipeline.generation.sampling import Sampling
from pipeline.requests import suite_pictures
from pipeline.requests.request import GenerationRequest
from pipeline.requests.suite_pictures import RECORD_FILE, SuiteRequest, draw_suite, grid_of
from tests.support.tokens import FINGERPRINT

PROMPTS = [SuitePrompt("a cow", "cow1", '{"tag": "a"}'), SuitePrompt("a very long street", "street", '{"tag": "b"}')]


def png(value: int, side: int = 4) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(content, "PNG")
    return content.getvalue()


class Drawing:
    """Stands for the generators: a picture's grey is its seed's, and some may be the last before a kill."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.drawn, self.killed_after = 0, 99
        stand_ins = dict(run_generators=self.run, ledger_attempt=self.attempt, exported_from=lambda export: "step-7")
        stand_ins |= dict(make_export=lambda *words: None, generator_config=lambda *words, **more: None)
        stand_ins |= dict(longest_prompt=lambda request: 3, load_text_tokenizer=lambda *words: None)
        stand_ins |= dict(text_ids=lambda tokenizer, texts: [text.split() for text in texts])
        for name, stand_in in stand_ins.items():
            monkeypatch.setattr(suite_pictures, name, stand_in)

    def run(self, config: object, rows: list[dict[str, Any]], *words: object) -> Iterator[dict[str, Any]]:
        for row in reversed(rows):
            if self.drawn == self.killed_after:
                raise KeyboardInterrupt
            self.drawn += 1
            yield row | {"png": png(row["seed"]), "high_png": png(row["seed"], side=8)}

    @contextmanager
    def attempt(self, *words: object) -> Iterator[Any]:
        yield SimpleNamespace(add=SimpleNamespace(remote=lambda counts: None))


def requests(folder: Path, suite: str, seed: int = 5, samples: int = 4) -> tuple[GenerationRequest, SuiteRequest]:
    (folder / "prompts.csv").write_text("the file")
    paths: Any = SimpleNamespace(text=folder, export=folder)
    limits = DocumentLimits(9, 0, 0)
    request = GenerationRequest(
        load_recipe("demo"), paths, FINGERPRINT, "picture", Sampling(top_k=3, seed=seed), None, limits
    )
    return request, SuiteRequest(suite, PROMPTS, folder / "prompts.csv", 0, samples, 8, folder / "out")


def files(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("suite", ["geneval", "dpg_bench"])
def test_the_same_command_after_a_kill_makes_what_one_without_a_kill_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suite: str
) -> None:
    drawing = Drawing(monkeypatch)
    for name, killed_after in (("whole", 99), ("killed", 5)):
        (tmp_path / name).mkdir()
        drawing.drawn, drawing.killed_after = 0, killed_after
        if name == "killed":
            with pytest.raises(KeyboardInterrupt):
                draw_suite(*requests(tmp_path / name, suite))
            (tmp_path / name / "out" / f".{uuid.uuid4().hex}").write_text("left by the kill")
            drawing.drawn, drawing.killed_after = 0, 99
        draw_suite(*requests(tmp_path / name, suite))
    assert drawing.drawn == (3 if suite == "geneval" else 4), "whole files are not drawn again"
    assert files(tmp_path / "whole" / "out") == files(tmp_path / "killed" / "out")
    record = json.loads((tmp_path / "whole" / "out" / RECORD_FILE).read_text())
    assert record["seeds"] == [5, 6, 7, 8] and record["checkpoint"] == "step-7" and record["prompts_cut"] == 1
    assert record["sampling"]["top_k"] == 3 and record["resolution_px"] == 48 and record["versions"]["torch"]


def test_the_high_resolution_is_recorded_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Drawing(monkeypatch)
    request, wanted = requests(tmp_path, "dpg_bench")
    sizes = replace(FINGERPRINT, transform={"size_px": 48, "size_hr_px": 96})
    request = replace(request, fingerprint=sizes, high=HighResolution(Role.HIGH_1, group_size=4, num_codes=16))
    draw_suite(request, wanted)
    draw_suite(request, wanted)  # compares the record
    record = json.loads((tmp_path / "out" / RECORD_FILE).read_text())
    assert record["high_resolution"] == {"role": "HIGH_1", "group_size": 4, "num_codes": 16}
    assert record["resolution_px"] == 96
    assert Image.open(tmp_path / "out" / "images" / "cow1.png").size == (16, 16)


def test_hidden_files_of_others_stay_in_a_folder_that_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Drawing(monkeypatch)
    request, wanted = requests(tmp_path, "geneval")
    draw_suite(request, wanted)
    (tmp_path / "out" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "out" / ".ipynb_checkpoints" / "notes.ipynb").write_text("mine")
    (tmp_path / "out" / ".nfs0001").write_text("mine")
    draw_suite(request, wanted)
    kept = files(tmp_path / "out")
    assert kept[".nfs0001"] == kept[".ipynb_checkpoints/notes.ipynb"] == b"mine"


def test_dpg_benchs_pictures_are_quarters_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Drawing(monkeypatch)
    draw_suite(*requests(tmp_path, "dpg_bench"))
    sheet = np.asarray(Image.open(tmp_path / "out" / "images" / "cow1.png"))
    # as dpg_bench/compute_dpg_bench.py crops them: left to right, then down, of --resolution px each
    corners = [sheet[down * 4 : down * 4 + 4, right * 4 : right * 4 + 4] for down in range(2) for right in range(2)]
    assert sheet.shape == (8, 8, 3) and [int(corner.mean()) for corner in corners] == [5, 6, 7, 8]
    assert grid_of([png(9)]) == png(9)


def test_a_folder_of_other_pictures_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = Drawing(monkeypatch)
    request, wanted = requests(tmp_path, "geneval")
    draw_suite(request, wanted)
    with pytest.raises(InputError, match="was begun with seeds .*5, 6, 7, 8.*name a new folder"):
        draw_suite(*requests(tmp_path, "geneval", seed=6))
    with pytest.raises(InputError, match="was begun with batch_size 8, and now it is 4"):
        draw_suite(request, replace(wanted, batch_size=4))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "cat.png").write_bytes(png(1))
    with pytest.raises(InputError, match="is not empty, and the scorer scores all it finds"):
        draw_suite(request, replace(wanted, output=tmp_path / "other"))
    assert drawing.drawn == 8
