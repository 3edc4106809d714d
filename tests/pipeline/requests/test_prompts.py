"""Prompts that cannot be read are refused in one line that names them."""

import json
import re
from pathlib import Path

import pytest

from pipeline.errors import InputError, UsageError
from pipeline.requests.prompts import read_prompts
from pipeline.requests.request import prompt_rows


def read(path: Path | str, *texts: str, max_ids: int = 4) -> list:
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
    drawn = prompt_rows([cat, sun], 2, seed=3)
    assert [(row["id"], row["seed"]) for row in drawn] == [("cat", 7), ("cat", 8), ("1", 3), ("1", 4)]


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
    with pytest.raises(InputError, match="line 20 is empty; and 30 more; correct the file"):
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
