"""Checks of names, locations and contents of files."""

from pathlib import Path

from tokenization.errors import InputError


def is_inside(name: str) -> bool:
    """True if a relative name stays in its folder: no empty part, no `.`, no `..`."""
    return not {"", ".", ".."} & set(name.split("/"))


def check_apart(corpus: str, output: str) -> None:
    """Checks that a corpus and an output folder do not overlap.

    Raises:
        InputError: one is inside the other, or they are the same.
    """
    locations = []
    for url in (corpus, output):
        location = url if "://" in url else str(Path(url).resolve())
        locations.append(location.rstrip("/") + "/")
    if locations[0].startswith(locations[1]) or locations[1].startswith(locations[0]):
        raise InputError(f"the output {output!r} and the corpus {corpus!r} lie in each other; choose another --output")


def check_whole(content: bytes, size: int, location: str) -> bytes:
    """Returns `content`, a part of a file, after a check of its length.

    Raises:
        InputError: it has fewer bytes than `size`.
    """
    if len(content) != size:
        raise InputError(f"{location!r} ends {size - len(content)} bytes too early")
    return content
