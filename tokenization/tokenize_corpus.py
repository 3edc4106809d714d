"""The tokenization job on Ray Data: read and decode on CPU workers, encode on an actor pool, write whole shards."""

import json
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
import torch
from ray.data import ActorPoolStrategy

from tokenization.corpus import list_shards
from tokenization.errors import InputError
from tokenization.image_tokenizer import ImageTokenizer, check_image_tokenizer, image_tokenizer_sha256
from tokenization.pictures import Transform
from tokenization.shard_rows import Chunk, TokenizationConfig, read_chunks
from tokenization.text_tokenizer import load_text_tokenizer, text_vocabulary_sha256
from tokenization.token_table import (
    MANIFEST_FILE,
    Fingerprint,
    read_fingerprint,
    write_atomically,
    write_token_shard,
)

READER_CPUS = 0.25
"""CPUs that a reading actor asks for, and leaves of each encoding one: so as many encoders as cores have readers."""
REJECTS_FOLDER = "rejects"
CORPUS_FILE = "corpus.txt"
"""Names the corpus that the tokens beside it came from."""


@dataclass(frozen=True)
class Tools:
    """Where the two tokenizers are: paths that every worker can read."""

    vq_folder: Path
    text_source: str
    text_cache: Path


@dataclass(frozen=True)
class Manifest:
    """What became of every input row: `rows_in == rows_out + rows_rejected`, failed shards apart."""

    fingerprint: dict[str, Any]
    shards: int
    failed_shards: dict[str, str]
    rows_in: int
    rows_out: int
    rows_rejected: int
    rejects_by_reason: dict[str, int]
    truncated_captions: int
    codes_in_use: int


def tokenize_corpus(
    corpus: Path,
    output: Path,
    config: TokenizationConfig,
    tools: Tools,
    num_encoders: int,
    use_gpu: bool,
    report: Callable[[str, int, int], None],
) -> Manifest:
    """Tokenizes the shards of `corpus` that `output` does not have yet, and closes the books.

    Args:
        corpus: folder of tar shards.
        output: folder for token shards at the same relative paths, `rejects/` and the manifest.
        config: what decides the tokens.
        tools: the two tokenizers.
        num_encoders: actors that encode, each with one GPU where `use_gpu`, else one CPU.
        use_gpu: encode on GPUs.
        report: called for every finished shard with its name, the shards done and their total.

    Raises:
        InputError: corpus, VQ-GAN or vocabulary cannot be used, or `output` holds tokens of another fingerprint.
    """
    shards = list_shards(corpus)
    check_image_tokenizer(tools.vq_folder)
    fingerprint = make_fingerprint(config, tools)
    done = {shard for shard in shards if token_path(output, shard).exists()}
    for shard in sorted(done):
        if read_fingerprint(token_path(output, shard)) != fingerprint.to_json():
            raise InputError(
                f"{str(output)!r} holds tokens made with another VQ-GAN, vocabulary or transform ({shard}); "
                "choose another --root or delete that folder"
            )
    _claim(output, corpus)
    (output / MANIFEST_FILE).unlink(missing_ok=True)
    failed: dict[str, str] = {}
    writing: dict[ray.ObjectRef, str] = {}
    writer: Any = ray.remote(num_cpus=0)(_Writer).remote(output, fingerprint)
    for shard, rows, rejects, error in _finished_shards(corpus, shards, done, config, tools, num_encoders, use_gpu):
        if error:
            failed[shard] = error
            report(shard, len(done) + len(failed), len(shards))
        else:
            writing[writer.write.remote(shard, rows, rejects)] = shard
        for reference in ray.wait(list(writing), num_returns=len(writing), timeout=0)[0] if writing else []:
            written = _written(reference, writing)
            done.add(written)
            report(written, len(done) + len(failed), len(shards))
    for reference in list(writing):
        shard = _written(reference, writing)
        done.add(shard)
        report(shard, len(done) + len(failed), len(shards))
    manifest = _close_books(output, sorted(done), failed, fingerprint)
    text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False)
    write_atomically(output / MANIFEST_FILE, lambda partial: partial.write_text(text, encoding="utf-8"))
    return manifest


def _claim(output: Path, corpus: Path) -> None:
    """Two corpora may name their shards alike: a folder keeps to the corpus it was begun with."""
    record, own = output / CORPUS_FILE, str(corpus.resolve())
    if record.exists() and (other := record.read_text("utf-8")) != own:
        raise InputError(
            f"{str(output)!r} holds tokens of the corpus {other!r}, not of {own!r}; choose another --root "
            f"(where the corpus has only moved, write its new path into {str(record)!r})"
        )
    write_atomically(record, lambda partial: partial.write_text(own, encoding="utf-8"))


def token_path(output: Path, shard: str) -> Path:
    """Where the token shard of an input shard lies: the same relative path."""
    return output / Path(shard).with_suffix(".parquet")


def make_fingerprint(config: TokenizationConfig, tools: Tools) -> Fingerprint:
    """The fingerprint of tokens made with these tools and this config."""
    vqgan = ImageTokenizer(tools.vq_folder)
    tokenizer = load_text_tokenizer(tools.text_source, tools.text_cache)
    if config.size_px % vqgan.factor:
        raise InputError(f"size_px {config.size_px} is no multiple of the VQ-GAN's factor {vqgan.factor}")
    return Fingerprint(
        vq_sha256=image_tokenizer_sha256(tools.vq_folder),
        text_vocabulary_sha256=text_vocabulary_sha256(tokenizer),
        transform=Transform(config.size_px).parameters(),
        encoder_dtype=config.encoder_dtype,
        encoder_batch_shape=[config.encode_batch_size, config.size_px, config.size_px, 3],
        codebook_size=vqgan.codebook_size,
        num_codes=(config.size_px // vqgan.factor) ** 2,
        max_caption_ids=config.max_caption_ids,
        caption_columns=config.caption_columns,
    )


def _rejects_path(output: Path, shard: str) -> Path:
    return output / REJECTS_FOLDER / Path(shard).with_suffix(".jsonl")


class _Reader:
    """Ray Data stage: a shard's name to its chunks. Each row is one encoding batch, so no batch crosses shards."""

    def __init__(self, corpus: Path, config: TokenizationConfig, tools: Tools) -> None:
        self._corpus, self._config = corpus, config
        self._tokenizer = load_text_tokenizer(tools.text_source, tools.text_cache)

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
        for shard in batch["shard"]:
            last_chunk = None
            try:
                for chunk in read_chunks(self._corpus, str(shard), self._config, self._tokenizer):
                    last_chunk = chunk
                    yield _as_batch(chunk)
            except InputError as error:
                index = last_chunk.index + 1 if last_chunk else 0
                yield _as_batch(Chunk(str(shard), index, np.zeros(0, np.uint8), last=True, error=str(error)))


class _Encoder:
    """Ray Data actor: adds the codes to each chunk's rows and drops the pixels."""

    def __init__(self, config: TokenizationConfig, tools: Tools, use_gpu: bool) -> None:
        dtype = getattr(torch, config.encoder_dtype)
        self._vqgan = ImageTokenizer(tools.vq_folder, "cuda" if use_gpu else "cpu", dtype)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        chunks = []
        for content in batch["chunk"]:
            chunk: Chunk = pickle.loads(content)
            if chunk.rows:
                codes = self._vqgan.encode(chunk.pixels)[: len(chunk.rows)]
                if codes.min() < 0 or codes.max() >= self._vqgan.codebook_size:
                    raise AssertionError(f"codes {codes.min()}..{codes.max()} outside the codebook")
                chunk.rows = [row | {"codes": line} for row, line in zip(chunk.rows, codes, strict=True)]
            chunks.append(replace(chunk, pixels=np.zeros(0, np.uint8)))
        return {"chunk": [pickle.dumps(chunk) for chunk in chunks]}


def _as_batch(chunk: Chunk) -> dict[str, Any]:
    return {"chunk": [pickle.dumps(chunk)]}


def _finished_shards(
    corpus: Path,
    shards: list[str],
    done: set[str],
    config: TokenizationConfig,
    tools: Tools,
    num_encoders: int,
    use_gpu: bool,
) -> Iterator[tuple[str, list[dict], list[dict], str]]:
    """Runs the pipeline; yields each shard once all its chunks are there: name, rows, rejects, error."""
    pending = [{"shard": shard} for shard in shards if shard not in done]
    if not pending:
        return
    encoded = (
        ray.data.from_items(pending, override_num_blocks=len(pending))
        .map_batches(
            _Reader,
            fn_constructor_args=(corpus, config, tools),
            batch_size=1,
            num_cpus=READER_CPUS,
            compute=ActorPoolStrategy(min_size=1, max_size=max(1, int(ray.cluster_resources().get("CPU", 1)))),
        )
        .map_batches(
            _Encoder,
            fn_constructor_args=(config, tools, use_gpu),
            batch_size=1,
            num_cpus=1 - READER_CPUS,
            num_gpus=1 if use_gpu else 0,
            compute=ActorPoolStrategy(size=num_encoders),
        )
    )
    collected: dict[str, list[Chunk]] = {}
    for row in encoded.iter_rows():
        chunk: Chunk = pickle.loads(row["chunk"])
        chunks = collected.setdefault(chunk.shard, [])
        chunks.append(chunk)
        total = next((other.index + 1 for other in chunks if other.last), None)
        if total == len(chunks):
            del collected[chunk.shard]
            chunks.sort(key=lambda chunk: chunk.index)
            error = next((chunk.error for chunk in chunks if chunk.error), "")
            rows = [row for chunk in chunks for row in chunk.rows]
            yield chunk.shard, rows, [reject for chunk in chunks for reject in chunk.rejects], error
    assert not collected, f"shards without an end: {sorted(collected)}"


class _Writer:
    """Actor that writes finished shards. One process: a task each would start, and import torch, as often."""

    def __init__(self, output: Path, fingerprint: Fingerprint) -> None:
        self._output, self._fingerprint = output, fingerprint

    def write(self, shard: str, rows: list[dict], rejects: list[dict]) -> None:
        """Rejects first: a shard counts as done once its tokens are there."""
        rejects_path = _rejects_path(self._output, shard)
        rejects_path.unlink(missing_ok=True)
        if rejects:
            lines = "".join(json.dumps(reject, ensure_ascii=False) + "\n" for reject in rejects)
            write_atomically(rejects_path, lambda partial: partial.write_text(lines, encoding="utf-8"))
        write_token_shard(token_path(self._output, shard), rows, self._fingerprint)


def _written(reference: ray.ObjectRef, writing: dict[ray.ObjectRef, str]) -> str:
    ray.get(reference)
    return writing.pop(reference)


def _close_books(output: Path, shards: list[str], failed: dict[str, str], fingerprint: Fingerprint) -> Manifest:
    """Counts from what lies on disk, not from what was sent there."""
    reasons: Counter[str] = Counter()
    rows_out = truncated = 0
    used = np.zeros(fingerprint.codebook_size, bool)
    for shard in shards:
        table = pq.read_table(token_path(output, shard), columns=["codes", "captions"])
        rows_out += len(table)
        for column in table["codes"].chunks:
            used[column.flatten().to_numpy()] = True
        truncated += sum(caption["truncated"] for row in table["captions"].to_pylist() for caption in row)
        rejects_path = _rejects_path(output, shard)
        if rejects_path.exists():
            reasons.update(json.loads(line)["reason"] for line in rejects_path.read_text("utf-8").splitlines())
    rejected = sum(reasons.values())
    return Manifest(
        fingerprint=asdict(fingerprint),
        shards=len(shards),
        failed_shards=failed,
        rows_in=rows_out + rejected,
        rows_out=rows_out,
        rows_rejected=rejected,
        rejects_by_reason=dict(sorted(reasons.items())),
        truncated_captions=truncated,
        codes_in_use=int(used.sum()),
    )
