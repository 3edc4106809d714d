"""Generated results are kept: pictures, their index, the grid and the page agree."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.pages.prompt_results import file_name, new_folder, save_page
from pipeline.requests.request import (
    GenerationRequest,
)
from pipeline.requests.results import save_documents, save_pictures
from tests.support.pictures import png


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
