"""A recipe for one's own corpus: one command writes it, says what was found, and the other jobs can take it."""

import json
import re
import sys
from pathlib import Path

import pytest

from jobs import new_recipe
from jobs.common.recipes import load_recipe
from pipeline.errors import UsageError
from pipeline.own_corpus.run_folder import keep_place, run_name
from pipeline.planning.recipe_plan import plan_recipe
from pipeline.reports.recipe_text import duration
from tests.support.past_run import PAST_RUN
from tests.support.pictures import noise_png


@pytest.fixture
def cups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of captioned pictures, in the current one."""
    folder = tmp_path / "My cups, 2026"
    folder.mkdir()
    for row in range(30):
        (folder / f"{row:03d}.png").write_bytes(noise_png(row))
        (folder / f"{row:03d}.txt").write_text(f"cup number {row}")
    monkeypatch.chdir(tmp_path)
    return folder


def options(corpus: Path, output: str = "") -> new_recipe.Options:
    vqgan, expert = (str(PAST_RUN / "past" / name) for name in ("vq", "lm"))
    return new_recipe.Options(str(corpus), output=output, root="runs", vqgan=vqgan, language_expert=expert, gpus=0)


@pytest.mark.slow
def test_one_command_writes_a_recipe_and_a_sheet(cups: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = new_recipe.main(options(cups))
    recipe = load_recipe("my_cups_2026.py")
    assert found["rows"] == 30 and found["captions"] == {"txt": "en"} == recipe.tokenization.caption_columns
    assert found["vq_psnr_db"] < 20 and json.dumps(found)
    assert Path("runs", "my_cups_2026", "corpus.png").stat().st_size > 10_000
    assert plan_recipe(recipe, [1]).flop == found["flop"]
    out = capsys.readouterr()
    assert "planned time" in out.out and "30 rows in 1 shards of layout files" in out.err
    text = Path("my_cups_2026.py").read_text()
    python = re.escape(sys.executable)
    for job in ("tokenize", "train_stage", "evaluate", "generate"):
        assert re.search(rf"^    {python} -m jobs.{job} --recipe my_cups_2026.py --root runs\b", text, re.MULTILINE)
    assert "all stages see each row about 47 times, as 20 steps are the least; at most 1 h in all" in text
    assert "30 rows are few. Expect" in out.err


def test_a_recipe_is_never_overwritten(cups: Path) -> None:
    Path("mine.py").write_text("changed by hand")
    with pytest.raises(UsageError, match="--output 'mine.py' exists"):
        new_recipe.main(options(cups, output="mine.py"))
    assert Path("mine.py").read_text() == "changed by hand"


def test_another_folder_of_the_same_name_gets_a_run_of_its_own(cups: Path) -> None:
    place, other = str(cups), "/elsewhere/My cups, 2026"
    keep_place(Path("runs", "cups"), place)
    assert run_name("runs", "cups", place, is_fixed=False) == "cups"
    assert run_name("runs", "cups", other, is_fixed=False) == "cups_2"
    with pytest.raises(UsageError, match="--name 'cups': the run '.*runs/cups' is of the corpus '.*'; give another"):
        run_name("runs", "cups", other, is_fixed=True)
    tokens = Path("runs", "cups_2", "tokens")
    tokens.mkdir(parents=True)
    (tokens / "tokenization.json").write_text(json.dumps({"corpus": {"url": "/data/../third"}}))
    assert run_name("runs", "cups", other, is_fixed=False) == "cups_3"
    assert run_name("runs", "cups_2", "/third", is_fixed=False) == "cups_2"


@pytest.mark.parametrize(
    ("hours", "text"),
    [
        (0.001, "under 10 seconds"),
        (0.01, "40 seconds"),
        (1 / 60, "60 seconds"),
        (0.05, "3 minutes"),
        (2.5, "2.5 hours"),
    ],
)
def test_planned_times_add_up(hours: float, text: str) -> None:
    assert duration(hours) == text


def test_too_few_rows_are_refused(cups: Path) -> None:
    for picture in sorted(cups.glob("*.png"))[10:]:
        picture.unlink()
    with pytest.raises(UsageError, match="has 10 usable rows; at least 20"):
        new_recipe.main(options(cups))


@pytest.mark.parametrize(
    ("corpus", "name"),
    [("/data/Birds of Peru/", "birds_of_peru"), ("s3://b/2026", "own_2026"), ("demo", "own_demo"), ("..", "own")],
)
def test_the_name_is_the_folders(corpus: str, name: str) -> None:
    assert new_recipe.recipe_name(corpus) == name
