"""What was generated for an evaluation before a kill is not generated again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.held_out_scores import kept
from pipeline.held_out_scores.kept import KeptResults


def results(numbers: range, killed_at: int = -1) -> Iterator[dict[str, Any]]:
    for number in numbers:
        if number == killed_at:
            raise KeyboardInterrupt
        yield {"number": number, "drawn_codes": [number, 1], "caption": f"图 {number}", "prompt": "not kept"}


def test_results_before_a_kill_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "ROWS", 4)
    first = KeptResults(tmp_path, "key")
    with pytest.raises(KeyboardInterrupt):
        list(first.keeping(results(range(10), killed_at=9)))
    again = KeptResults(tmp_path, "key")
    assert again.read().keys() == set(range(8)), "two whole files of four"
    assert len(list(again.keeping(results(range(8, 10))))) == 2
    assert again.read()[9] == {"number": 9, "drawn_codes": [9, 1], "caption": "图 9"}
    assert KeptResults(tmp_path, "other key").read() == {}
