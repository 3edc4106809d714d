"""What is stored about a folder is still true after the folder has moved."""

from pathlib import Path

import pytest

from tokenization.files.places import is_same_place, stored_place

RUN = Path("/new/runs/demo")


@pytest.mark.parametrize("place", ["/data/corpus", "s3://bucket/runs/demo/corpus", "/new/runs/demo2/corpus"])
def test_a_place_outside_is_stored_as_it_is_and_is_another_one_elsewhere(place: str) -> None:
    assert stored_place(place, RUN) == place and is_same_place(place, place, RUN)
    assert not is_same_place(f"/old{place}", place, RUN)


def test_a_place_inside_is_stored_by_its_path_in_the_folder() -> None:
    assert stored_place("/new/runs/demo/corpora/a", RUN) == "corpora/a"
    assert is_same_place("corpora/a", "/new/runs/demo/corpora/a", RUN)
    assert not is_same_place("corpora/b", "/new/runs/demo/corpora/a", RUN)


def test_an_absolute_path_of_earlier_code_is_known_before_and_after_the_folder_has_moved() -> None:
    for stored in ("/new/runs/demo/corpus", "/old/runs/demo/corpus"):
        assert is_same_place(stored, "/new/runs/demo/corpus", RUN)
    for stored in ("/old/runs/other/corpus", "/old/runs/demo/corpus2", "s3://old/demo/corpus"):
        assert not is_same_place(stored, "/new/runs/demo/corpus", RUN)


def test_without_a_folder_every_place_is_stored_whole() -> None:
    assert stored_place("/data/corpus", None) == "/data/corpus"
    assert not is_same_place("/old/data/corpus", "/data/corpus", None)
