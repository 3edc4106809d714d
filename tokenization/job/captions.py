"""The captions of a sample: from the columns that hold them, or from a text file beside its picture."""

import hashlib
from typing import Any

from tokenization.config.tokenization import TokenizationConfig
from tokenization.corpora.samples import Sample

TEXT_COLUMN = "txt"
"""The name under which `caption_columns` may have the text file beside a picture."""
COLUMNS_SHOWN = 12
LIKELY = ("caption", "text", "prompt", "description", "sentence", "title", "alt")
"""Parts of the names that columns of captions usually have."""


def caption_columns_of(sample: Sample, config: TokenizationConfig) -> dict[str, Any]:
    """The values of the caption columns. The column `txt` is the text file beside the picture. If there is a single
    caption column and it holds no text, the text file takes its place."""
    columns = {column: sample.metadata.get(column) for column in config.caption_columns}
    if sample.text and TEXT_COLUMN in columns and not columns[TEXT_COLUMN]:
        columns[TEXT_COLUMN] = sample.text
    if sample.text and len(columns) == 1 and not any(_texts(value) for value in columns.values()):
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
    if sample.text:
        return (
            f"none of the columns {wanted} holds a text, and the .txt beside the picture names no language; add it as "
            "in --captions en=txt"
        )
    there = [name for name, value in sample.metadata.items() if _texts(value)]
    shown = ", ".join(there[:COLUMNS_SHOWN]) + (", ..." if len(there) > COLUMNS_SHOWN else "")
    empty = [name for name in config.caption_columns if name in sample.metadata]
    likely = next((name for part in LIKELY for name in there if part in name.lower()), there[0] if there else "")
    found = f"; the columns with texts are {shown} (--captions en={likely})" if there else "; no column has a text"
    held = ", ".join(f"{name} holds {_kind(sample.metadata[name])}" for name in empty)
    return f"none of the columns {wanted} holds a text{found}{f' ({held})' if held else ''}"


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
