"""From one input shard to chunks of decoded pictures with their captions' ids: the CPU side of tokenization."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from tokenization.corpus import Sample, read_shard
from tokenization.pictures import Transform, load_picture


@dataclass(frozen=True)
class TokenizationConfig:
    """What decides the tokens.

    Attributes:
        size_px: side of the square that is encoded, px.
        caption_columns: language to metadata column.
        max_caption_ids: longer captions are cut to this many ids and marked.
        encode_batch_size: pictures the VQ-GAN encodes at once; the last batch of a shard is padded to it.
        encoder_dtype: `float32`, `bfloat16` or `float16`.
    """

    size_px: int = 128
    caption_columns: dict[str, str] = field(default_factory=lambda: {"en": "caption_en", "zh": "caption_zh"})
    max_caption_ids: int = 77
    encode_batch_size: int = 32
    encoder_dtype: str = "float32"


@dataclass
class Chunk:
    """Up to `encode_batch_size` rows of one shard.

    `pixels` uint8 [encode_batch_size, S, S, 3], padded with zeros; `rows` without their codes;
    `rejects` met since the chunk before; `last` where the shard ends; `error` where it cannot be read.
    """

    shard: str
    index: int
    pixels: np.ndarray
    rows: list[dict[str, Any]] = field(default_factory=list)
    rejects: list[dict[str, str]] = field(default_factory=list)
    last: bool = False
    error: str = ""


def read_chunks(
    corpus: Path, shard: str, config: TokenizationConfig, tokenizer: PreTrainedTokenizerFast
) -> Iterator[Chunk]:
    """The chunks of one shard, in its order. A sample that cannot be used becomes a reject.

    Raises:
        InputError: the shard cannot be read to its end.
    """
    transform = Transform(config.size_px)
    shape = (config.encode_batch_size, config.size_px, config.size_px, 3)
    chunk = Chunk(shard, 0, np.zeros(shape, np.uint8))
    seen: set[str] = set()
    for sample in read_shard(corpus / shard):
        if len(chunk.rows) == config.encode_batch_size:
            yield chunk
            chunk = Chunk(shard, chunk.index + 1, np.zeros(shape, np.uint8))
        try:
            row, pixels = _row(shard, sample, seen, transform, config, tokenizer)
        except _Reject as reject:
            chunk.rejects.append({"shard": shard, "key": sample.key, "reason": reject.reason, "message": str(reject)})
            continue
        chunk.pixels[len(chunk.rows)] = pixels
        chunk.rows.append(row)
    chunk.last = True
    yield chunk


class _Reject(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def _row(
    shard: str,
    sample: Sample,
    seen: set[str],
    transform: Transform,
    config: TokenizationConfig,
    tokenizer: PreTrainedTokenizerFast,
) -> tuple[dict[str, Any], np.ndarray]:
    if sample.key in seen:
        raise _Reject("repeated key", f"key {sample.key!r} occurs before in this shard")
    seen.add(sample.key)
    if sample.picture is None:
        raise _Reject("no picture", "the sample has no picture file")
    try:
        metadata = sample.metadata()
    except (ValueError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _Reject("bad metadata", str(error)) from error
    captions = []
    for language, column in config.caption_columns.items():
        text = metadata.get(column)
        if not isinstance(text, str) or not text.strip():
            continue
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise _Reject("bad caption", f"{column} has half of a surrogate pair, which is no text")
        ids = tokenizer(text)["input_ids"]
        cut = ids[: config.max_caption_ids]
        captions.append({"lang": language, "text": text, "ids": cut, "truncated": len(cut) < len(ids)})
    if not captions:
        wanted = ", ".join(config.caption_columns.values())
        raise _Reject("no caption", f"none of the columns {wanted} holds a text")
    try:
        picture = load_picture(sample.picture, transform)
    except ValueError as error:
        raise _Reject("bad picture", str(error)) from error
    left, top, side = picture.crop
    own = {
        "sample_id": f"{shard}/{sample.key}",
        "captions": captions,
        "width": picture.width,
        "height": picture.height,
        "crop": {"left": left, "top": top, "side": side},
    }
    used = set(config.caption_columns.values()) | {"key", "width", "height"}
    return {name: value for name, value in metadata.items() if name not in used} | own, picture.pixels
