"""The rows that a score is made of are held out, drawn by seed, and never the whole corpus."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import CorpusConfig, Recipe, Source
from pipeline.errors import InputError
from pipeline.held_out_scores.rows import draw_rows
from pipeline.runs.paths import RunPaths
from tests.support.small_models import CODEBOOK
from tests.support.tokens import STAGE, write_documents, write_tokens


def run_with(folder: Path, held_out: str) -> RunPaths:
    stage = replace(STAGE, sources={"main": Source(held_out=held_out)})
    recipe = Recipe("small", {"main": CorpusConfig(path="x", tokens=str(folder / "tokens"))}, stages=(stage,))
    return RunPaths(folder / "small", recipe)


def test_held_out_rows_are_drawn_by_seed(tmp_path: Path) -> None:
    write_tokens(tmp_path / "tokens")
    paths = run_with(tmp_path, "score >= 0.7")
    drawn = draw_rows(paths.recipe, paths, 5, 0, CODEBOOK)
    ids = [row.sample_id for row in drawn.rows]
    assert len(ids) == 5 and drawn.of == 9 and drawn.held_out
    assert all(int(name[-4:]) >= 7 for name in ids), "no stage trained on them"
    assert ids == [row.sample_id for row in draw_rows(paths.recipe, paths, 5, 0, CODEBOOK).rows]
    assert ids != [row.sample_id for row in draw_rows(paths.recipe, paths, 5, 1, CODEBOOK).rows]
    assert len(draw_rows(paths.recipe, paths, 100, 0, CODEBOOK).rows) == 9


def test_the_codes_frequencies_are_those_of_the_trained_rows(tmp_path: Path) -> None:
    write_tokens(tmp_path / "tokens")
    paths = run_with(tmp_path, "score >= 0.7")
    counted = draw_rows(paths.recipe, paths, 1, 0, CODEBOOK).code_counts
    others = run_with(tmp_path, "score < 0.7")
    trained = draw_rows(others.recipe, others, 100, 0, CODEBOOK).rows
    expected = np.bincount(np.concatenate([row.codes for row in trained]), minlength=CODEBOOK)
    assert counted.sum() == 21 * 9 and (counted == expected).all()


def test_the_prompts_take_the_languages_in_turn(tmp_path: Path) -> None:
    write_tokens(tmp_path / "tokens")
    paths = run_with(tmp_path, "score >= 0.7")
    prompts = draw_rows(paths.recipe, paths, 4, 0, CODEBOOK).prompts()
    assert [(text, language) for _, text, language in prompts] == [("a b", "en"), ("c", "zh")] * 2


def test_without_held_out_rows_trained_ones_are_drawn_and_told(tmp_path: Path) -> None:
    write_tokens(tmp_path / "tokens")
    paths = run_with(tmp_path, "")
    drawn = draw_rows(paths.recipe, paths, 5, 0, CODEBOOK)
    assert not drawn.held_out and drawn.of == 30


def test_documents_are_refused(tmp_path: Path) -> None:
    write_documents(tmp_path / "tokens")
    paths = run_with(tmp_path, "")
    with pytest.raises(InputError, match="interleaved documents"):
        draw_rows(paths.recipe, paths, 5, 0, CODEBOOK)
