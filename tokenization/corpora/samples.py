"""`Sample`, the common form of all corpus formats: a key, a picture's bytes, and metadata."""

import json
from dataclasses import dataclass, field
from typing import Any

from tokenization.corpora.names import TEXT_SUFFIXES

MAX_TEXT_BYTES = 16_000_000
"""Maximum size of a file of metadata or of a caption, and of a row of JSON lines or of csv."""
MAX_DEPTH = 50
"""Maximum depth of nested JSON. Deeper values would exhaust Python's stack when they are pickled."""


@dataclass(frozen=True)
class Segment:
    """A picture's place in an interleaved document.

    Attributes:
        document: the document's name within its shard.
        place, of: the picture's index in the document, from 0, and the number of the document's pictures.
        before: the text between the previous picture, or the start, and this one.
        after: the text after the document's last picture; empty on the others.
    """

    document: str
    place: int
    of: int
    before: str
    after: str


@dataclass(frozen=True)
class Sample:
    """One sample of a corpus.

    Attributes:
        key: its name within its shard; valid Unicode.
        picture: the file's bytes, or None.
        metadata: captions and all other columns.
        problem: if the sample cannot be used, the (reason, message); else empty.
        segment: its place in an interleaved document; None for a picture with captions.
        text: the caption in a text file beside the picture, which names no column and no language; often empty.
        file: the picture's file in the corpus, where a row names one that is there; else empty.
    """

    key: str
    picture: bytes | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    problem: tuple[str, str] | tuple[()] = ()
    segment: Segment | None = None
    text: str = ""
    file: str = ""


@dataclass(frozen=True)
class Ignored:
    """Something in a shard that is part of no sample, such as a hidden file.

    Attributes:
        reason: what it is; the manifest counts by it.
    """

    reason: str


def caption_in(content: bytes) -> str:
    """The text of a caption's file, without white space around it.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8: {error}") from error


def parse_object(text: bytes | str) -> dict[str, Any]:
    """Parses a JSON object.

    Raises:
        ValueError: the text is no JSON, no object, or nested too deeply.
    """
    try:
        value = json.loads(text, object_pairs_hook=_without_repeats)
        _check_depth(value, MAX_DEPTH)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"it is a {type(value).__name__}, not an object")
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def _check_depth(value: Any, depth: int) -> None:
    if isinstance(value, (dict, list)):
        if not depth:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        for inner in value.values() if isinstance(value, dict) else value:
            _check_depth(inner, depth - 1)


def readable(name: bytes | str) -> str:
    """A name as valid Unicode. Bytes that are not UTF-8 become escapes, including those that Python holds as
    surrogates."""
    content = name if isinstance(name, bytes) else name.encode("utf-8", "surrogatepass")
    return content.decode("utf-8", "backslashreplace")


def sample_of(key: str, picture: bytes | None, contents: dict[str, bytes]) -> Sample:
    """The sample of a picture and of the files of its name: `.json` holds its columns, `.txt` a caption.

    Args:
        key, picture: see `Sample`.
        contents: the files' bytes by ending.
    """
    text, problem = "", ""
    suffix = next((suffix for suffix in TEXT_SUFFIXES if suffix in contents), "")
    if suffix:
        try:
            text = caption_in(contents[suffix])
        except ValueError as error:
            problem = f".{suffix}: {error}"
    if "json" in contents:
        try:
            return Sample(key, picture, parse_object(contents["json"]), text=text)
        except ValueError as error:
            return Sample(key, picture, problem=("bad metadata", f".json: {error}"))
    if problem:
        return Sample(key, picture, problem=("bad caption", problem))
    if not suffix:
        also = f", only .{', .'.join(contents)}" if contents else ""
        return Sample(key, picture, problem=("bad metadata", f"the sample has no .json and no .txt{also}"))
    return Sample(key, picture, text=text)
