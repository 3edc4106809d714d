"""The captions of a sample: from the columns that hold them, or from a text file beside its picture."""

import hashlib
import unicodedata
from itertools import groupby
from typing import Any

from tokenization.config.tokenization import TokenizationConfig
from tokenization.corpora.samples import Sample

TEXT_COLUMN = "txt"
"""The name under which `caption_columns` may have the text file beside a picture."""
COLUMNS_SHOWN = 12
MAX_LETTERS = 200_000
"""Maximum length of a caption, and of a text in a document: about 50,000 ids, which take 0.4 s of a core."""
MAX_MARKS = 1000
"""Maximum number of marks on one letter, whose order Unicode's composed form decides in quadratic time."""
LIKELY = ("caption", "text", "prompt", "description", "sentence", "title", "alt", "描述", "标题", "文本", "说明")
"""Parts of the names that columns of captions usually have."""


def caption_columns_of(sample: Sample, config: TokenizationConfig) -> dict[str, Any]:
    """The values of the caption columns. The column `txt` is the text file beside the picture. If nothing else lies
    beside it and there is a single caption column, the text file takes its place; beside other columns, it may be in
    another language."""
    columns = {column: sample.metadata.get(column) for column in config.caption_columns}
    if sample.text and TEXT_COLUMN in columns and not columns[TEXT_COLUMN]:
        columns[TEXT_COLUMN] = sample.text
    if sample.text and len(columns) == 1 and not sample.metadata:
        columns = dict.fromkeys(columns, sample.text)
    return columns


def captions_of(sample: Sample, config: TokenizationConfig, shard: str, seed: int) -> tuple[dict[str, str], bool]:
    """Captions by column, of a sample that is no picture of a document.

    Where a column holds a list of texts, one is taken: that at the index
    blake2b(f"{seed}/{shard}/{key}/{column}") modulo the number of texts that are not blank, the hash's first 8 bytes
    read as a little-endian number.

    Returns:
        The captions, and True if one was chosen among several.
    """
    captions, was_drawn = {}, False
    for column, value in caption_columns_of(sample, config).items():
        texts = _texts(value)
        if not texts:
            continue
        index = 0
        if len(texts) > 1:
            name = f"{seed}/{shard}/{sample.key}/{column}".encode()
            index = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little") % len(texts)
            was_drawn = True
        captions[column] = texts[index]
    return captions, was_drawn


def why_no_caption(sample: Sample, config: TokenizationConfig) -> str:
    """A message that names the columns that are there."""
    wanted = ", ".join(config.caption_columns)
    beside = ""
    if sample.text:
        beside = ", and the .txt beside the picture names no language; add it as in --captions en=txt"
        if not sample.metadata:
            return f"none of the columns {wanted} holds a text{beside}"
    there = [name for name, value in sample.metadata.items() if _texts(value)]
    shown = ", ".join(there[:COLUMNS_SHOWN]) + (", ..." if len(there) > COLUMNS_SHOWN else "")
    empty = [name for name in config.caption_columns if name in sample.metadata]
    likely = next((name for part in LIKELY for name in there if part in name.lower()), there[0] if there else "")
    found = f"; the columns with texts are {shown} (--captions en={likely})" if there else "; no column has a text"
    found += beside
    held = ", ".join(f"{name} holds {_kind(sample.metadata[name])}" for name in empty)
    return f"none of the columns {wanted} holds a text{found}{f' ({held})' if held else ''}"


def why_no_text(text: str) -> str:
    """The reason why a text cannot be tokenized; empty if it can."""
    if len(text) > MAX_LETTERS:
        return f"has {len(text)} letters, more than {MAX_LETTERS}"
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return "has half of a surrogate pair, which is no text"
    if len(text) > MAX_MARKS and not text.isascii():
        of_marks = (sum(1 for _ in run) for is_mark, run in groupby(map(unicodedata.combining, text), bool) if is_mark)
        if max(of_marks, default=0) > MAX_MARKS:
            return f"has more than {MAX_MARKS} marks on one letter"
    return ""


def _texts(value: Any) -> list[str]:
    """The texts of a value that are not blank: its own, or those of a list. Old writers of parquet wrote bytes."""
    texts = []
    for one in value if isinstance(value, list) else [value]:
        text = _decoded(one) if isinstance(one, bytes) else one
        if isinstance(text, str) and text.strip():
            texts.append(text)
    return texts


def _decoded(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return ""


def _kind(value: Any) -> str:
    if value is None or value == "" or (isinstance(value, str) and not value.strip()):
        return "nothing"
    return f"a value of type {type(value).__name__}"
