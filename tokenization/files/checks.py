"""What a name, a place and a content must be."""

from pathlib import Path

from tokenization.errors import InputError


def is_inside(name: str) -> bool:
    """Whether a relative name stays in its folder: no empty part, no `.`, no `..`."""
    return not {"", ".", ".."} & set(name.split("/"))


def check_apart(corpus: str, output: str) -> None:
    """Keeps what is read and what is written from mixing.

    Raises:
        InputError: one lies in the other, or they are the same.
    """
    places = []
    for url in (corpus, output):
        place = url if "://" in url else str(Path(url).resolve())
        places.append(place.rstrip("/") + "/")
    if places[0].startswith(places[1]) or places[1].startswith(places[0]):
        raise InputError(f"the output {output!r} and the corpus {corpus!r} lie in each other; choose another --output")


def check_whole(content: bytes, size: int, place: str) -> bytes:
    """The content of a part of a file.

    Raises:
        InputError: it has fewer bytes than `size`.
    """
    if len(content) != size:
        raise InputError(f"{place!r} ends {size - len(content)} bytes too early")
    return content
