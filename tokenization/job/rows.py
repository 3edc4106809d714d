"""The CPU side of tokenization: from one input shard to chunks of decoded pictures with their captions' ids."""

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tokenization.config.tokenization import TokenizationConfig
from tokenization.corpora.corpus import Corpus
from tokenization.corpora.pictures import Picture
from tokenization.corpora.samples import Ignored, Sample, readable
from tokenization.corpora.tar import APART
from tokenization.files.content import one_line
from tokenization.job.captions import captions_of, why_no_caption, why_no_text
from tokenization.job.chosen import chosen
from tokenization.job.chunk import Chunk
from tokenization.job.decoding import Decoder, decoder_here
from tokenization.table.token_table import OWN_COLUMNS
from tokenization.text_tokenizer import TextTokenizer, text_ids


def read_chunks(
    corpus: Corpus,
    shard: str,
    config: TokenizationConfig,
    tokenizer: TextTokenizer,
    seed: int = 0,
    decoder: Decoder | None = None,
) -> Iterator[Chunk]:
    """Yields the chunks of one shard, in its order. A sample that cannot be used becomes a reject.

    Args:
        corpus, shard, config, tokenizer: what is read, and how.
        seed: decides which of several captions is chosen; see `captions_of`.
        decoder: decodes the pictures; None for this process. It decides nothing about the chunks.

    Raises:
        InputError: the shard cannot be read to its end.
    """
    seen: set[str] = set()
    index, rejects, ignored = 0, list[dict[str, str]](), Counter[str]()
    usable: list[_Usable] = []

    def chunk_of(count: int) -> Chunk:
        chunk = _chunk(shard, index, usable[:count], rejects, config, tokenizer)
        chunk.notes.ignored = Counter(ignored)
        chunk.notes.caption_seed = seed if any(one.drawn for one in usable[:count]) else None
        return chunk

    named: set[str] = set()
    keys = deque[list[str]]()

    def prepared() -> Iterator[list[_Ready | _Reject]]:
        for samples in _by_document(_counting(corpus.read_all(shard), ignored)):
            named.update(sample.file for sample in samples if sample.file)
            keys.append([shortened(sample.key, KEY_LETTERS) for sample in samples])
            yield _prepared(samples, seen, config, shard, seed)

    for whole, problems in _with_pictures(prepared(), decoder or decoder_here(config.transform)):
        usable += whole
        rejects += [
            {"shard": shard, "key": key, "reason": reject.reason, "message": str(reject)}
            for key, reject in zip(keys.popleft(), problems, strict=False)
        ]
        while len(usable) > config.encode_batch_size:
            yield chunk_of(config.encode_batch_size)
            index, usable, rejects = index + 1, usable[config.encode_batch_size :], []
            ignored.clear()
    chunk = chunk_of(len(usable))
    chunk.last, chunk.notes.files_named = True, named
    yield chunk


@dataclass(frozen=True)
class _Ready:
    """A sample that becomes a row if its picture, `content`, can be decoded. For the others see `_Usable`."""

    sample: Sample
    texts: dict[str, str]
    content: bytes
    drawn: bool


@dataclass(frozen=True)
class _Usable:
    """A sample that becomes a row. `texts`: captions by column; for a document's picture, the texts around it. `drawn`:
    one of them was chosen among several."""

    sample: Sample
    texts: dict[str, str]
    picture: Picture
    drawn: bool


KEY_LETTERS, MESSAGE_LETTERS = 1000, 2000
"""Maximum lengths of a key and of a reject's message."""


def shortened(text: str, most: int) -> str:
    """The text, or its beginning and how long it is."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} letters)"


class _Reject(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(shortened(one_line(readable(message)), MESSAGE_LETTERS))
        self.reason = reason


def _counting(found: Iterator[Sample | Ignored], ignored: Counter[str]) -> Iterator[Sample]:
    """Yields the samples, and counts the rest."""
    for one in found:
        if isinstance(one, Ignored):
            ignored[one.reason] += 1
        else:
            yield one


def _by_document(samples: Iterator[Sample]) -> Iterator[list[Sample]]:
    """Groups the pictures of each document; every other sample is a group of one."""
    document: list[Sample] = []
    for sample in samples:
        document.append(sample)
        if sample.segment is None or sample.segment.place + 1 == sample.segment.of:
            yield document
            document = []


def _prepared(
    samples: list[Sample], seen: set[str], config: TokenizationConfig, shard: str, seed: int
) -> list["_Ready | _Reject"]:
    """All of a group's samples after every check but that of their pictures."""
    prepared: list[_Ready | _Reject] = []
    for sample in samples:
        try:
            prepared.append(_checked(sample, seen, config, shard, seed))
        except _Reject as reject:
            prepared.append(reject)
    return prepared


def _with_pictures(
    groups: Iterator[list["_Ready | _Reject"]], decoder: Decoder
) -> Iterator[tuple[list["_Usable"], list["_Reject"]]]:
    """Returns the usable samples of each group, or a reject for each: a document is used completely or not at all."""
    waiting = deque[list[_Ready | _Reject]]()

    def contents() -> Iterator[list[bytes]]:
        for group in groups:
            waiting.append(group)
            yield [one.content for one in group if isinstance(one, _Ready)]

    for decoded in decoder(contents()):
        group, pictures = waiting.popleft(), iter(decoded)
        found: list[_Usable | _Reject] = []
        for one in group:
            picture = next(pictures) if isinstance(one, _Ready) else None
            if isinstance(one, _Reject):
                found.append(one)
            elif isinstance(picture, Picture):
                found.append(_Usable(one.sample, one.texts, picture, one.drawn))
            else:
                found.append(_Reject("bad picture", str(picture)))
        usable = [one for one in found if isinstance(one, _Usable)]
        beside = _Reject("bad document", "another picture of its document cannot be used")
        whole = len(usable) == len(found)
        yield (usable, []) if whole else ([], [one if isinstance(one, _Reject) else beside for one in found])


def _checked(sample: Sample, seen: set[str], config: TokenizationConfig, shard: str, seed: int) -> "_Ready":
    if sample.key in seen and sample.problem[:1] != (APART,):
        raise _Reject("repeated key", f"key {sample.key!r} occurs before in this shard")
    seen.add(sample.key)
    if len(sample.key) > KEY_LETTERS:
        raise _Reject("bad key", f"its key has {len(sample.key)} letters, more than {KEY_LETTERS}")
    if sample.problem:
        raise _Reject(*sample.problem)
    if sample.segment is None:
        texts, drawn = captions_of(sample, config, shard, seed)
        if not texts:
            raise _Reject("no caption", why_no_caption(sample, config))
    else:
        around = {"before": sample.segment.before, "after": sample.segment.after}
        texts, drawn = {name: text for name, text in around.items() if text}, False
    for column, text in texts.items():
        if problem := why_no_text(text):
            raise _Reject("bad caption", f"{column} {problem}")
    assert sample.picture is not None
    return _Ready(replace(sample, picture=None), texts, sample.picture, drawn)


def _chunk(
    shard: str,
    index: int,
    usable: list[_Usable],
    rejects: list[dict[str, str]],
    config: TokenizationConfig,
    tokenizer: TextTokenizer,
) -> Chunk:
    pixels = np.zeros((config.encode_batch_size, config.size_px, config.size_px, 3), np.uint8)
    ids = iter(text_ids(tokenizer, [text for one in usable for text in one.texts.values()]))
    rows = []
    for place, one in enumerate(usable):
        sample, picture = one.sample, one.picture
        pixels[place] = picture.pixels
        whole = {column: next(ids) for column in one.texts}
        largest = max((max(line) for line in whole.values()), default=0)
        if largest >= len(tokenizer):
            raise AssertionError(f"id {largest} outside the text vocabulary")
        captions, document = [], None
        if (segment := sample.segment) is not None:
            around = {name: whole.get(name, []) for name in ("before", "after")}
            document = {"id": segment.document, "place": segment.place, "of": segment.of, **around}
        else:
            for column, text in one.texts.items():
                cut = whole[column][: config.max_caption_ids]
                truncated = len(cut) < len(whole[column])
                language = config.caption_columns[column]
                captions.append({"lang": language, "text": text, "ids": cut, "truncated": truncated})
        left, top, side = picture.crop
        rows.append(
            passed_through(sample, config)
            | {
                "sample_id": f"{shard}/{sample.key}",
                "captions": captions,
                "width": picture.width,
                "height": picture.height,
                "crop": {"left": left, "top": top, "side": side},
                "document": document,
            }
        )
    chunk = Chunk(shard, index, pixels, rows, rejects=rejects)
    if config.size_hr_px and rows:
        chunk.places_hr, chunk.notes.not_numbers = chosen(rows, config.hr_where)
        if chunk.places_hr:
            chunk.pixels_hr = np.stack([_high(usable[place].picture) for place in chunk.places_hr])
    return chunk


def _high(picture: Picture) -> np.ndarray:
    assert picture.high is not None
    return picture.high()


def passed_through(sample: Sample, config: TokenizationConfig) -> dict[str, Any]:
    """The corpus's own columns. A name that the table itself uses gets the prefix `source_`, and so does one that has
    that prefix already: a row may have both."""
    # The row already has these: its captions, the source's size, and in img2dataset's tars its key.
    dropped = {"width", "height"} if sample.segment else {*config.caption_columns, "width", "height"}
    if sample.metadata.get("key") == sample.key:
        dropped.add("key")
    return {
        f"source_{name}" if _own_name(name) in OWN_COLUMNS else readable(name): value
        for name, value in sample.metadata.items()
        if name not in dropped
    }


def _own_name(name: str) -> str:
    while name.startswith("source_"):
        name = name.removeprefix("source_")
    return name


@dataclass(frozen=True)
class Tools:
    """The paths of the two tokenizers, which every worker must be able to read."""

    vq_folder: Path
    text_source: str
    text_cache: Path
