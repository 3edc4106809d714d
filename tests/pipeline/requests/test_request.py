"""A request fits the run's training, or is refused with what to do."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import generate
from pipeline.config.vocabulary import Role
from pipeline.errors import InputError, UsageError
from pipeline.generation.pictures import HighResolution
from pipeline.requests.request import (
    GenerationRequest,
    caption_rows,
    checked_prompts,
    high_resolution,
)
from tests.support.pictures import png
from tests.support.requests import base_recipe, fingerprint, high_recipe
from tokenization.config.sources import PACKAGED
from tokenization.text_tokenizer import load_text_tokenizer, text_ids


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (dict(task="caption"), "needs --image"),
        (dict(task="caption", image=("a.png",), prompt=("sun",)), "takes --image, and no prompt"),
        (dict(image=("a.png",)), "--image is for --task caption, not for picture"),
        (dict(task="joint"), "--task joint needs --prompt"),
        (dict(task="joint", prompt=("sun",), high_resolution="yes"), "base resolution"),
        (dict(task="caption", image=("a.png",), resolution=256), "base resolution"),
        (dict(num_pictures_each=0), "--num-pictures-each is 0"),
        (dict(max_text_ids=0), "--max-text-ids is 0"),
        (dict(max_pictures=-1), "--max-pictures is -1"),
        (dict(batch_size=-2), "--batch-size is -2"),
        (dict(num_drafts=-1), "--num-drafts is -1"),
        (dict(task="joint", prompt=("sun",), num_drafts=4), "--num-drafts is for --task picture, not for joint"),
        (dict(num_drafts=4, set=("scaling.use_gpu=True",)), "--num-drafts: on a GPU a pass is a CUDA graph"),
        (dict(num_candidates=0), "--num-candidates is 0"),
        (dict(num_candidates=4), "4 candidates of a prompt are the same picture at temperature 0; add --temperature 1"),
        (
            dict(task="joint", prompt=("sun",), num_candidates=4),
            "--num-candidates is for --task picture, not for joint",
        ),
        (dict(top_p=0.0), "top_p is 0.0"),
        (dict(seed=-1), "seed is -1"),
    ],
)
def test_flags_that_cannot_be_meant_are_refused_before_anything_starts(
    tmp_path: Path, flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        generate.main(generate.Options(root=str(tmp_path), **flags))


def test_high_resolution_is_as_the_last_stage_trained_it() -> None:
    expected = HighResolution(Role.HIGH_2, 4, 256)
    assert high_resolution(high_recipe(), fingerprint()) == expected
    assert high_resolution(high_recipe(), fingerprint(), "yes") == expected
    assert high_resolution(high_recipe(), fingerprint(), size_px=256) == expected
    assert high_resolution(high_recipe(), fingerprint(), "no") is None
    assert high_resolution(high_recipe(), fingerprint(), size_px=128) is None
    assert high_resolution(base_recipe(), fingerprint()) is None


def test_a_resolution_the_run_was_not_trained_for_is_refused() -> None:
    with pytest.raises(UsageError, match="--resolution 512: this run was trained for 128 px, 256 px"):
        high_resolution(high_recipe(), fingerprint(), size_px=512)
    with pytest.raises(UsageError, match="--resolution 256: this run was trained for 128 px"):
        high_resolution(base_recipe(), fingerprint(), size_px=256)
    with pytest.raises(UsageError, match="has no task high_resolution"):
        high_resolution(base_recipe(), fingerprint(), "yes")
    with pytest.raises(UsageError, match="contradict"):
        high_resolution(high_recipe(), fingerprint(), "no", 256)
    with pytest.raises(InputError, match="the tokens have none"):
        high_resolution(high_recipe(), fingerprint(None))


@pytest.mark.slow
def test_special_token_text_in_a_prompt_is_ordinary_text(request_of: Callable[..., GenerationRequest]) -> None:
    """It may neither end the prompt nor open a picture."""
    request = request_of("picture")
    (prompt,), _ = checked_prompts(request, ("a <img> cat <|endoftext|>",), "")
    tokenizer = load_text_tokenizer(PACKAGED, request.paths.text)
    (ids,) = text_ids(tokenizer, [prompt.text])
    assert tokenizer.decode(ids) == prompt.text and max(ids) < 151_643


@pytest.mark.slow
def test_a_prompt_may_be_as_long_as_a_trained_caption_and_the_positions_allow(
    request_of: Callable[..., GenerationRequest],
) -> None:
    words = "sun " * 78
    with pytest.raises(UsageError, match="text ids, this model takes at most 77"):
        checked_prompts(request_of("picture"), (words,), "")
    # a picture takes 2 + 64 + 4 + 256 positions after its prompt
    assert checked_prompts(request_of("picture", positions=336), ("sun",), "")[1] == 10
    with pytest.raises(UsageError, match="takes 326 positions after the prompt, the model has 300"):
        checked_prompts(request_of("picture", positions=300), ("sun",), "")
    # a document may be longer than captions were: 100 + 2 * 66 positions after it
    assert checked_prompts(request_of("joint"), (words,), "")[1] == 128
    with pytest.raises(UsageError, match="takes at most 68"):
        checked_prompts(request_of("joint", positions=300), (words,), "")


def test_pictures_to_caption_that_cannot_be_read_are_all_named(tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(png())
    (tmp_path / "bad.png").write_bytes(b"no picture")
    files = tuple(str(tmp_path / name) for name in ("good.png", "bad.png", "missing.png"))
    with pytest.raises(InputError, match="bad.png.*missing.png"):
        caption_rows(files, "en", 0, fingerprint())
    (row,) = caption_rows(files[:1], "zh", 0, fingerprint())
    assert row["pixels"].shape == (128, 128, 3) and row["language"] == "zh"
