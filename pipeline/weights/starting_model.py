"""Makes the model that training starts from, file by file, from a language expert that is never loaded.

Each file of the language expert becomes one file of the starting model: its tensors, copies of the expert's tensors for
the visual side, and the tables of the codes, computed from the two text tables. Tensors are copied in pieces, and files
are written atomically. A record of each file's source lets an interrupted attempt continue.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from pipeline.architecture.mars_config import MarsConfig
from pipeline.config.model import ModelOptions
from pipeline.errors import InputError
from pipeline.weights.initial_rows import embedding_start, head_start, mean_row, num_words
from pipeline.weights.language_expert_formats import EMBEDDING, HEAD, LanguageExpertFiles, visual_norm, visual_twin
from pipeline.weights.start_file import START_FILE, is_starting_model
from pipeline.weights.tensor_files import (
    PIECE_ELEMENTS,
    NewTensor,
    SafetensorsFile,
    TensorFile,
    write_safetensors,
)
from tokenization.files.atomic_writing import write_atomically
from tokenization.files.hashing import file_sha256
from tokenization.files.places import is_same_place

INDEX_FILE = "model.safetensors.index.json"


@dataclass(frozen=True)
class StartOptions:
    """Options that decide the starting model, in addition to the language expert; `dtype` as in `ZeroConfig`."""

    codebook_size: int
    model: ModelOptions = ModelOptions()
    dtype: str = "bfloat16"

    @classmethod
    def of(cls, codebook_size: int, dtype: str, **model: Any) -> "StartOptions":
        """Rebuilds options from the result of `as_object`."""
        return cls(codebook_size, ModelOptions(**model), dtype)

    def as_object(self) -> dict[str, Any]:
        """The options as in the record: one flat object with the model's options."""
        return {"codebook_size": self.codebook_size, **asdict(self.model), "dtype": self.dtype}


@dataclass(frozen=True)
class MadeFile:
    """A file of the starting model, with the hash of the language expert's file that it was made from."""

    size: int
    sha256: str
    source: str
    source_sha256: str


@dataclass(frozen=True)
class StartRecord:
    """The record of a starting model's sources.

    Attributes:
        language_expert: the folder or hub name that was given; a folder in the run's by its path there.
        format: format of the language expert.
        options: see `StartOptions`.
        files: the files made so far, by name.
        base_sha256: the model's `pipeline.model.loading.base_sha256`; empty until it is finished.
    """

    language_expert: str
    format: str
    options: StartOptions
    files: dict[str, MadeFile] = field(default_factory=dict)
    base_sha256: str = ""


def read_record(folder: Path) -> StartRecord:
    """Reads the record of a starting model.

    Raises:
        InputError: the record is not readable.
    """
    try:
        values = json.loads((folder / START_FILE).read_text())
        files = {name: MadeFile(**made) for name, made in values["files"].items()}
        return StartRecord(**values | {"files": files, "options": StartOptions.of(**values["options"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(folder)!r}: {START_FILE} is not readable: {error}; remove the folder") from error


def finished_record(folder: Path, options: StartOptions) -> StartRecord:
    """Returns the record of a finished starting model with these options (its dtype may differ).

    Checks that its files exist in full size.

    Raises:
        InputError: it is unfinished, damaged, or made with other options.
    """
    record = read_record(folder)
    if not record.base_sha256:
        raise InputError(f"starting model {str(folder)!r} is not finished; run jobs/init_model.py again")
    recorded = record.options.as_object()
    for name, value in replace(options, dtype=record.options.dtype).as_object().items():
        if (made := recorded[name]) != value:
            raise InputError(
                f"starting model {str(folder)!r} was made with {name} {made}, the recipe has {value}; "
                "undo the change, or remove the folder and run jobs/init_model.py"
            )
    for name, made_file in record.files.items():
        path = folder / name
        if not path.exists() or path.stat().st_size != made_file.size:
            raise InputError(f"starting model {str(folder)!r}: {name} is damaged; run jobs/init_model.py again")
    return record


def verify_files(folder: Path, record: StartRecord) -> None:
    """Raises InputError if a file differs from its recorded hash."""
    for name, made in record.files.items():
        if file_sha256(folder / name) != made.sha256:
            raise InputError(
                f"starting model {str(folder)!r}: {name} has changed since it was made; run jobs/init_model.py again"
            )


def make_starting_model(
    expert: LanguageExpertFiles, named: str, options: StartOptions, out: Path, log: Callable[[str], None]
) -> StartRecord:
    """Writes the starting model to `out` as a Hugging Face folder: the same as `MarsForCausalLM.from_language_expert`.

    A complete file is kept if its source is unchanged.

    Args:
        expert: the language expert.
        named: the name that the user gave for it, for the record; see `stored_place`.
        options: options of the model.
        out: a new folder, or one of an earlier attempt.
        log: receives one line per file.

    Raises:
        InputError: `out` was begun with another language expert or other options, or the disk is too small.
    """
    record = _earlier_or_new_record(out, StartRecord(named, expert.format, options))
    dtype = getattr(torch, options.dtype)
    config = MarsConfig.from_language_expert(expert.config, options.codebook_size, options.model)
    sources = [file for file in expert.tensors.files if any(expert.file_of(name) == file for name in expert.parts)]
    weight_map: dict[str, str] = {}
    for number, source in enumerate(sources, start=1):
        name = f"model-{number:05d}-of-{len(sources):05d}.safetensors"
        made = _make_file(expert, source, config, dtype, out / name, record.files.get(name), log)
        record.files[name] = made
        _save(out, record)
        weight_map |= dict.fromkeys(SafetensorsFile(out / name).shapes, name)
    for name in record.files.keys() - set(weight_map.values()):  # left by an attempt whose source had other files
        (out / name).unlink(missing_ok=True)
        del record.files[name]
    total_bytes = sum(made.size for made in record.files.values())
    index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(weight_map.items()))}
    write_atomically(out / INDEX_FILE, lambda path: path.write_text(json.dumps(index, indent=2)))
    save_configs(config, dtype, out)
    finished = replace(record, base_sha256=expert.base_sha256())
    _save(out, finished)
    return finished


def save_configs(config: MarsConfig, dtype: torch.dtype, out: Path) -> None:
    """Writes config.json and generation_config.json as `save_pretrained` does."""
    config.architectures = ["MarsForCausalLM"]
    config.dtype = dtype
    config.save_pretrained(out)
    GenerationConfig.from_model_config(config).save_pretrained(out)


def _make_file(
    expert: LanguageExpertFiles,
    source: str,
    config: MarsConfig,
    dtype: torch.dtype,
    path: Path,
    before: MadeFile | None,
    log: Callable[[str], None],
) -> MadeFile:
    """Makes one file if it is missing or outdated. Keeps nothing of its source in memory."""
    source_sha256 = file_sha256(expert.tensors.folder / source)
    if before and before.source_sha256 == source_sha256 and path.exists() and file_sha256(path) == before.sha256:
        log(f"{path.name} is already there, made of {source}")
        return before
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)  # left by a killed attempt: its space is needed
    tensors = list(_tensors_of(expert, source, expert.tensors.open(source), config, dtype))
    size = sum(tensor.count for tensor in tensors) * dtype.itemsize
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise InputError(
            f"{str(path.parent)!r} has {free / 1e9:.1f} GB free, {path.name} needs {size / 1e9:.1f} GB; make room"
        )
    try:
        sha256 = write_safetensors(partial, tensors, dtype)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    log(f"{path.name}: {len(tensors)} tensors, {size / 1e9:.2f} GB, made of {source}")
    return MadeFile(path.stat().st_size, sha256, source, source_sha256)


def _tensors_of(
    expert: LanguageExpertFiles, source: str, opened: TensorFile, config: MarsConfig, dtype: torch.dtype
) -> Iterator[NewTensor]:
    """Yields the starting model's tensors that are made from one file of the language expert."""
    for name in expert.parts:
        if expert.file_of(name) != source:
            continue
        text = expert.tensor(name, opened)
        yield text
        twin = visual_twin(name)
        if twin != name and not (config.shared_output_projection and name.endswith(".o_proj.weight")):
            yield text.renamed(twin)
        if norm := visual_norm(name, config):
            yield NewTensor(norm, (config.head_size,), lambda: iter([torch.ones(config.head_size)]))
        if name == EMBEDDING:
            yield _embedding(text, config, dtype)
        if name == (EMBEDDING if config.tie_word_embeddings else HEAD):
            yield _head(text, config, dtype)


def _embedding(words: NewTensor, config: MarsConfig, dtype: torch.dtype) -> NewTensor:
    rows, noise_std = config.vocabulary.num_visual, config.embedding_noise_std
    return NewTensor(
        "model.embed_visual.weight",
        (rows, config.hidden_size),
        lambda: embedding_start(_mean(words, dtype), rows, noise_std).flatten().split(PIECE_ELEMENTS),
    )


def _head(words: NewTensor, config: MarsConfig, dtype: torch.dtype) -> NewTensor:
    rows = config.vocabulary.num_visual
    return NewTensor(
        "head.visual_weight",
        (rows, config.hidden_size),
        lambda: head_start(_mean(words, dtype), rows).flatten().split(PIECE_ELEMENTS),
    )


def _mean(words: NewTensor, dtype: torch.dtype) -> Tensor:
    """The mean of the words' rows in the model's dtype."""
    return mean_row((piece.to(dtype) for piece in words.pieces()), num_words(words.shape[0]), words.shape[1])


def _earlier_or_new_record(out: Path, wanted: StartRecord) -> StartRecord:
    """Returns the record of an earlier attempt, or writes a new one."""
    out.mkdir(parents=True, exist_ok=True)
    if not is_starting_model(out):
        if any(not path.name.startswith(".") for path in out.iterdir()):  # hidden files were left by a killed attempt
            raise InputError(f"{str(out)!r} is not empty and no starting model; name a new folder")
        _save(out, wanted)
        return wanted
    record = read_record(out)
    for name in ("language_expert", "format", "options"):
        have, want = getattr(record, name), getattr(wanted, name)
        if have != want and not (name == "language_expert" and is_same_place(have, str(out.parent / want), out.parent)):
            raise InputError(
                f"{str(out)!r} was begun with another {name}, {have!r}, not {want!r}; "
                "undo the change, remove the folder, or name another"
            )
    return replace(record, base_sha256="")


def _save(out: Path, record: StartRecord) -> None:
    values = asdict(record) | {"options": record.options.as_object()}
    write_atomically(out / START_FILE, lambda path: path.write_text(json.dumps(values, indent=2)))
