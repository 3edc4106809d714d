"""What cannot be generated is refused in one line that names it, before anything starts; what is made stays."""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from jobs import generate
from jobs.common.recipes import load_recipe
from pipeline.config.recipe import Recipe
from pipeline.config.vocabulary import Role
from pipeline.errors import InputError, UsageError
from pipeline.generation.documents import DocumentLimits
from pipeline.generation.pictures import HighResolution
from pipeline.generation.sampling import Sampling
from pipeline.pages.prompt_results import file_name, new_folder, save_page
from pipeline.requests.prompts import read_prompts
from pipeline.requests.request import (
    GenerationRequest,
    caption_rows,
    checked_prompts,
    high_resolution,
    prompt_rows,
)
from pipeline.requests.results import save_documents, save_pictures
from pipeline.runs.paths import run_paths
from tests.support.pictures import png
from tokenization.config.pictures import Transform
from tokenization.config.sources import PACKAGED
from tokenization.table.token_table import Fingerprint
from tokenization.text_tokenizer import load_text_tokenizer, text_ids


def read(path: Path, *texts: str, max_ids: int = 4) -> list:
    return read_prompts(texts, str(path), lambda lines: [len(line.split()) for line in lines], max_ids)


def test_prompts_come_from_the_command_line_then_from_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a red cat\n红猫\r\nun chat rouge", encoding="utf-8")
    prompts = read(path, "sun")
    assert [prompt.text for prompt in prompts] == ["sun", "a red cat", "红猫", "un chat rouge"]
    assert [prompt.id for prompt in prompts] == ["0", "1", "2", "3"]


def test_jsonl_gives_prompts_their_language_seed_and_id(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "红猫", "language": "zh", "seed": 7, "id": "cat"}, {"prompt": "sun", "tag": "not ours"}]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    cat, sun = read(path)
    assert (cat.text, cat.language, cat.seed, cat.id) == ("红猫", "zh", 7, "cat")
    assert (sun.text, sun.language, sun.seed, sun.id) == ("sun", None, None, "1")
    rows = prompt_rows([cat, sun], 2, seed=3)
    assert [(row["id"], row["seed"]) for row in rows] == [("cat", 7), ("cat", 8), ("1", 3), ("1", 4)]


def test_every_bad_line_of_a_file_is_named_with_its_number_in_one_error(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("fine\n\none two three four five\n  \nfine too\n")
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert "line 2 is empty; line 3 has 5 text ids, this model takes at most 4; line 4 is empty" in message
    assert "\n" not in message and str(path) in message


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "line 2 is empty"),
        ("{", "line 2 is no JSON"),
        ("[1]", 'line 2 is no object with a text under "prompt"'),
        ('{"text": "sun"}', 'line 2 is no object with a text under "prompt"'),
        ('{"prompt": "  "}', "line 2 is empty"),
        ('{"prompt": "sun", "seed": -1}', "line 2 is wrong: seed is -1"),
        ('{"prompt": "sun", "seed": "1"}', "line 2 has the seed '1'"),
        ('{"prompt": "sun", "seed": true}', "line 2 has the seed True"),
        ('{"prompt": "sun", "language": 3}', "line 2 has the language 3"),
        ('{"prompt": "sun", "id": "0"}', "line 2 has the id '0' of line 1"),
        ('{"prompt": "a b c d e"}', "line 2 has 5 text ids"),
    ],
)
def test_a_bad_jsonl_line_says_what_is_wrong_with_it(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "fine"}\n' + line + "\n")
    with pytest.raises(InputError, match=re.escape(problem)):
        read(path)


def test_many_bad_lines_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("\n" * 50)
    with pytest.raises(InputError, match="line 20 is empty; and 30 more; mend it"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("prompts.csv", b"sun", UsageError, r"must end in .txt .* or .jsonl"),
        ("prompts.txt", b"\xff\xfe\x00", InputError, "cannot be read as UTF-8"),
        ("prompts.txt", b"", InputError, "has no line"),
        ("prompts.txt", None, InputError, "cannot be read"),
    ],
)
def test_a_file_that_holds_no_prompts_is_refused(
    tmp_path: Path, name: str, content: bytes | None, error: type, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        read(tmp_path / name)


def test_a_prompt_of_the_command_line_that_is_too_long_is_refused() -> None:
    with pytest.raises(UsageError, match="--prompt has 5 text ids, this model takes at most 4"):
        read("", "sun", "one two three four five")


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
        (dict(top_p=0.0), "top_p is 0.0"),
        (dict(seed=-1), "seed is -1"),
    ],
)
def test_flags_that_cannot_be_meant_are_refused_before_anything_starts(
    tmp_path: Path, flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        generate.main(generate.Options(root=str(tmp_path), **flags))


def high_recipe() -> Recipe:
    recipe = load_recipe("demo")
    shares = {"text_to_image": 0.5, "high_resolution": 0.5}
    last = replace(recipe.stages[-1], task_shares=shares, high_resolution_role="high_2", high_resolution_group=4)
    return replace(recipe, stages=(*recipe.stages[:-1], last))


def base_recipe() -> Recipe:
    recipe = load_recipe("demo")
    return replace(recipe, stages=tuple(replace(s, task_shares={"text_to_image": 1.0}) for s in recipe.stages))


def fingerprint(num_codes_hr: int | None = 256) -> Fingerprint:
    sizes = Transform(128, 256 if num_codes_hr else 0).parameters()
    return Fingerprint("", "", sizes, "float32", [1], 8192, 64, 77, {}, None, num_codes_hr)


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


@pytest.fixture(scope="module")
def request_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., GenerationRequest]:
    root = tmp_path_factory.mktemp("runs")  # shared: to convert the text vocabulary takes seconds

    def made(task: str, positions: int = 4096, **limits: Any) -> GenerationRequest:
        recipe = high_recipe()
        paths = run_paths(str(root), recipe)
        paths.language_expert.mkdir(parents=True, exist_ok=True)
        (paths.language_expert / "config.json").write_text(
            json.dumps({"model_type": "qwen2", "max_position_embeddings": positions})
        )
        documents = DocumentLimits(64, **{"max_pictures": 2, "max_text_ids": 100} | limits)
        high = high_resolution(recipe, fingerprint()) if task == "picture" else None
        return GenerationRequest(recipe, paths, fingerprint(), task, Sampling(), high, documents)

    return made


def test_special_token_text_in_a_prompt_is_ordinary_text(request_of: Callable[..., GenerationRequest]) -> None:
    """It may neither end the prompt nor open a picture."""
    request = request_of("picture")
    (prompt,), _ = checked_prompts(request, ("a <img> cat <|endoftext|>",), "")
    tokenizer = load_text_tokenizer(PACKAGED, request.paths.text)
    (ids,) = text_ids(tokenizer, [prompt.text])
    assert tokenizer.decode(ids) == prompt.text and max(ids) < 151_643


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


def test_results_never_overwrite_earlier_ones(tmp_path: Path) -> None:
    first, second = new_folder(tmp_path / "out"), new_folder(tmp_path / "out")
    assert (first.name, second.name) == ("0001", "0002")
    second.rmdir()
    (tmp_path / "out" / "0041").mkdir()
    assert new_folder(tmp_path / "out").name == "0042"


@pytest.mark.parametrize("text", ["../../etc/passwd", "猫" * 300, "a/b\\c\0", ""])
def test_a_prompt_of_any_kind_makes_a_name_that_stays_in_its_folder(tmp_path: Path, text: str) -> None:
    name = file_name(3, text)
    (tmp_path / f"{name}_high.png").write_bytes(b"")
    assert name.startswith("000003_") and [path.name for path in tmp_path.iterdir()] == [f"{name}_high.png"]


def test_pictures_their_indices_and_the_grid_agree(
    request_of: Callable[..., GenerationRequest], tmp_path: Path
) -> None:
    request, folder = request_of("picture"), tmp_path / "made"
    folder.mkdir()
    rows = [
        {
            "row_number": number,
            "id": str(number // 2),
            "prompt": f"红 cat {number // 2}",
            "language": "",
            "seed": number,
            "png": png((16, 16)),
            "high_png": png((32, 32)),
            "drawn_codes": np.arange(64),
            "drawn_high_codes": np.arange(256),
        }
        for number in (3, 0, 2, 1)
    ]
    save_pictures(request, folder, rows)
    table = pd.read_parquet(folder / "index.parquet")
    lines = [json.loads(line) for line in (folder / "index.jsonl").read_text(encoding="utf-8").splitlines()]
    assert table["seed"].tolist() == [line["seed"] for line in lines] == [0, 1, 2, 3]
    assert "codes" not in lines[0] and len(table["high_codes"][0]) == 256 and lines[0]["guidance_scale"] == 1.0
    for line in lines:
        assert Image.open(folder / line["picture"]).size == (16, 16)
        assert Image.open(folder / line["high_picture"]).size == (32, 32)
    assert Image.open(folder / "grid.png").size[0] > 100


def test_a_page_holds_its_pictures_and_no_markup_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    segments = [{"text": "<script>alert(1)</script> boil"}, {"picture": "a.png"}, {"text": "serve"}]
    save_page(tmp_path, [{"prompt": "soup & <b>bread</b>", "seed": 0, "segments": segments}])
    page = Path(tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<script>" not in page and "<b>" not in page and "soup &amp; &lt;b&gt;" in page
    assert page.index("boil") < page.index("data:image/png;base64,") < page.index("serve")


def test_documents_are_written_with_their_pictures_in_order(
    request_of: Callable[..., GenerationRequest], tmp_path: Path
) -> None:
    content = base64.b64encode(png((16, 16))).decode()
    picture = {"codes": [1] * 64, "png": content}
    documents = [[{"text": "boil"}, picture, picture, {"text": "serve"}], [{"text": "nothing to see"}], [picture]]
    rows = [
        {
            "row_number": number,
            "id": str(number),
            "prompt": "soup",
            "language": "",
            "seed": 0,
            "segments": json.dumps(one),
        }
        for number, one in enumerate(documents)
    ]
    save_documents(request_of("joint"), tmp_path, rows[::-1])
    lines = [json.loads(line) for line in (tmp_path / "index.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["0", "1", "2"] and lines[0]["max_text_ids"] == 100
    segments = lines[0]["segments"]
    assert [segment.get("text") for segment in segments] == ["boil", None, None, "serve"]
    assert len({segment["picture"] for segment in segments[1:3]}) == 2 and segments[1].keys() == {"picture"}
    stored = json.loads(pd.read_parquet(tmp_path / "index.parquet")["segments"][0])
    assert stored[1]["codes"] == [1] * 64 and "png" not in stored[1]
    assert len(list((tmp_path / "pictures").iterdir())) == 3
    assert (tmp_path / "index.html").read_text().count("data:image/png;base64,") == 3
    assert (tmp_path / "grid.png").exists()
