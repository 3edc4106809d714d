"""Qwen's text vocabulary as a fast tokenizer, from its rank file or a folder. Ids alone do not need transformers."""

import hashlib
import json
import os
import shutil
import unicodedata
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Union
from weakref import WeakKeyDictionary

from tokenizers import Tokenizer as FastTokenizer

from tokenization.config.sources import PACKAGED
from tokenization.errors import InputError
from tokenization.files.content import content_of_file
from tokenization.files.hashing import file_sha256
from tokenization.files.room import naming_full_disk

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Qwen splits like GPT-4's tokenizer, but splits digits one by one (Qwen's tokenization_qwen.py).
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = (END_OF_TEXT, "<|im_start|>", "<|im_end|>", *(f"<|extra_{number}|>" for number in range(205)))
"""Qwen-7B's 208 special tokens, in the order of their ids from 151,643 on."""
NUM_RANKS = 151_643
QWENS_SHA256 = "36c3749fd3c87e2402f612459b45ae4e6ce5488a3ecde47a8a3ea3ed3d5dda5a"
"""Of Qwen's ranks in the order of their ids, as byte-level tokens, a line each: those of the package `dashscope`."""
PROBES = {
    "It's I'LL we've 3.14159": [2132, 594, 358, 6, 4086, 582, 3003, 220, 18, 13, 16, 19, 16, 20, 24],
    "墨镜笑脸：你好，世界": [101241, 100811, 115975, 5122, 108386, 3837, 99489],
    "  café A\u030angström\t\r\n\r\n x": [220, 51950, 79252, 968, 495, 85584, 42625, 856],
    "def f(x):\n    return x  # ok": [750, 282, 2075, 982, 262, 470, 856, 220, 671, 5394],
}
"""Texts with the ids that Qwen's own tokenizer gives them: they show how a tokenizer splits and merges."""
SMALL_VOCABULARY = 10_000
"""A vocabulary of fewer tokens is taken for that of a language expert which was trained with it, as in tests: no
published model has so few."""
JSON_FILE = "tokenizer.json"
A_JSON, A_TEXT = "a JSON text", "a text that begins"
"""What a broken file of a tokenizer may look like, and so does a whole one."""
RANK_FILE = "qwen.tiktoken"
"""Name of the rank file in a folder of Qwen-7B."""


def load_text_tokenizer(source: str, cache: Path) -> "PreTrainedTokenizerFast":
    """Loads the tokenizer that `source` names.

    Args:
        source: `dashscope` for the packaged rank file, the path of a `.tiktoken` rank file or of a `tokenizer.json`, or
            a local folder with a `tokenizer.json` or, as Qwen-7B's, with `qwen.tiktoken`. A folder's own code never
            runs.
        cache: folder for a converted rank file (the conversion takes seconds); a folder is loaded in place.

    Raises:
        InputError: there is no such file or folder, or it is no tokenizer.
    """
    from transformers import PreTrainedTokenizerFast

    path = vocabulary_file(source)
    if path.suffix == ".json":
        return _of_json(path)
    cached = _converted_folder(path, cache)
    if not cached.exists():
        _save_converted(path, cached)
    return PreTrainedTokenizerFast.from_pretrained(cached)


def _save_converted(path: Path, cached: Path) -> None:
    partial = cached.with_name(f".{uuid.uuid4().hex}")
    try:
        with naming_full_disk(cached, partial):
            _converted(path).save_pretrained(partial)
        os.replace(partial, cached)
    except OSError:
        if not cached.exists():  # else another process was faster, with the same content
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_fast_text_tokenizer(source: str, cache: Path) -> "FastTextTokenizer":
    """Loads what gives the same ids as `load_text_tokenizer`'s tokenizer. For the arguments and errors see there."""
    path = vocabulary_file(source)
    if path.suffix != ".json":
        folder = _converted_folder(path, cache)
        if not folder.exists():
            load_text_tokenizer(source, cache)
        path = folder / JSON_FILE
    try:
        return FastTextTokenizer(FastTokenizer.from_file(str(path)))
    except Exception as error:  # the library raises any exception
        raise InputError(_unreadable(path, error)) from error


def vocabulary_file(source: str) -> Path:
    """The file that a source names: a `tokenizer.json`, or a rank file.

    Raises:
        InputError: there is none.
    """
    path = _packaged_ranks() if source == PACKAGED else Path(source)
    if not path.exists():
        raise InputError(f"text tokenizer {source!r} does not exist; name {PACKAGED!r}, a .tiktoken file or a folder")
    if not path.is_dir():
        return path
    found = next((path / name for name in (JSON_FILE, RANK_FILE) if (path / name).exists()), None)
    if found is None:
        raise InputError(
            f"text tokenizer folder {source!r} has neither {JSON_FILE} nor {RANK_FILE}; fetch the file that "
            "belongs to the language expert, or save the tokenizer with save_pretrained"
        )
    return found


class FastTextTokenizer:
    """Gives the ids of texts, and nothing else. Added tokens in a text are ordinary text."""

    def __init__(self, tokenizer: FastTokenizer) -> None:
        self._size = tokenizer.get_vocab_size(with_added_tokens=True)
        if not all(token.special for token in tokenizer.get_added_tokens_decoder().values()):
            tokenizer = _plain(tokenizer)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # as text
        self._tokenizer = tokenizer

    def __len__(self) -> int:
        """The number of ids, those of added tokens included."""
        return self._size

    def ids(self, lines: list[str]) -> list[list[int]]:
        """The ids of texts that `_readable` has normalised."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch(lines)]


TextTokenizer = Union[FastTextTokenizer, "PreTrainedTokenizerFast"]
"""What `text_ids` takes."""


def text_vocabulary_sha256(tokenizer: "PreTrainedTokenizerFast") -> str:
    """A hash of everything that decides the ids of a text."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def text_ids(tokenizer: TextTokenizer, texts: list[str]) -> list[list[int]]:
    """The ids of texts. Added tokens in a text are ordinary text, special ones such as `<|endoftext|>` and others such
    as `<think>`."""
    if not texts:
        return []
    lines = [_readable(text) for text in texts]
    if isinstance(tokenizer, FastTextTokenizer):
        return tokenizer.ids(lines)
    if all(token.special for token in tokenizer.added_tokens_decoder.values()):
        ids: list[list[int]] = tokenizer(lines, split_special_tokens=True)["input_ids"]
        return ids
    return [encoding.ids for encoding in _without_added_tokens(tokenizer).encode_batch(lines)]


def check_fits(tokenizer: "PreTrainedTokenizerFast", num_rows: int) -> None:
    """Checks a vocabulary against a language expert's table of `num_rows` rows.

    Raises:
        InputError: the table is that of a published Qwen, and the vocabulary is not.
    """
    if len(tokenizer) < NUM_RANKS <= num_rows:
        raise InputError(
            f"the text tokenizer has {len(tokenizer)} ids, and the language expert {num_rows} rows, as Qwen's have; "
            "set text_tokenizer to the language expert's own"
        )


def end_of_text_id(tokenizer: "PreTrainedTokenizerFast") -> int:
    """The id that ends a caption.

    Raises:
        InputError: the tokenizer has none, so it is not one of Qwen's.
    """
    found = tokenizer.get_vocab().get(END_OF_TEXT)
    if found is None:
        raise InputError(
            f"the text tokenizer has no {END_OF_TEXT}, which all of Qwen's have; name the language expert's "
            "own tokenizer"
        )
    return int(found)


_WITHOUT_ADDED: "WeakKeyDictionary[PreTrainedTokenizerFast, FastTokenizer]" = WeakKeyDictionary()


def _without_added_tokens(tokenizer: "PreTrainedTokenizerFast") -> FastTokenizer:
    """The same tokenizer without its added tokens. Only special ones can be turned off in a call."""
    if tokenizer not in _WITHOUT_ADDED:
        _WITHOUT_ADDED[tokenizer] = _plain(tokenizer.backend_tokenizer)
    return _WITHOUT_ADDED[tokenizer]


def _plain(tokenizer: FastTokenizer) -> FastTokenizer:
    described = json.loads(tokenizer.to_str()) | {"added_tokens": [], "truncation": None, "padding": None}
    return FastTokenizer.from_str(json.dumps(described))


def _converted_folder(ranks: Path, cache: Path) -> Path:
    return cache / file_sha256(ranks)[:16]


def _of_json(described: Path) -> "PreTrainedTokenizerFast":
    """Loads a `tokenizer.json`, with the settings beside it if there are any."""
    from transformers import PreTrainedTokenizerFast

    folder = described.parent
    in_folder = described.name == JSON_FILE and (folder / "tokenizer_config.json").exists()
    try:
        FastTokenizer.from_file(str(described))  # of a broken file, transformers would look for another one
        if in_folder:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        else:
            tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(described))
    except Exception as error:  # the two libraries raise any exception
        raise InputError(_unreadable(described, error)) from error
    _check_vocabulary(tokenizer, described)
    return tokenizer


def _check_vocabulary(tokenizer: "PreTrainedTokenizerFast", path: Path) -> None:
    """Raises InputError if the vocabulary is neither Qwen's nor a small one: its ids would name other words."""
    backend = tokenizer.backend_tokenizer
    size = backend.get_vocab_size(with_added_tokens=False)
    if size < SMALL_VOCABULARY:
        return
    ids = backend.get_vocab(with_added_tokens=False).items()
    ranks = "\n".join(token for _, token in sorted((number, token) for token, number in ids if number < NUM_RANKS))
    is_qwens = hashlib.sha256(ranks.encode("utf-8", "surrogatepass")).hexdigest() == QWENS_SHA256
    if not is_qwens or size != NUM_RANKS:
        raise InputError(
            f"text tokenizer {str(path)!r} has another vocabulary than Qwen's, of {size} tokens; MARS is built on "
            "Qwen's, so name the language expert's own tokenizer"
        )
    if text_ids(tokenizer, list(PROBES)) != list(PROBES.values()):
        raise InputError(
            f"text tokenizer {str(path)!r} has Qwen's vocabulary, but splits texts in another way; fetch it again"
        )


def _converted(ranks: Path) -> "PreTrainedTokenizerFast":
    try:
        return _convert(ranks)
    except InputError:
        raise
    except Exception as error:  # a broken file makes the converter raise any exception
        raise InputError(_unreadable(ranks, error)) from error


def _unreadable(path: Path, error: Exception) -> str:
    found = content_of_file(path)
    is_another = found is not None and not found.name.startswith((A_JSON, A_TEXT))
    problem = f"it is {found}" if is_another else f"{' '.join(str(error).split())[:200]}; fetch it again"
    return f"text tokenizer {str(path)!r} is not readable: {problem}"


def _readable(text: str) -> str:
    """Normalises the text as Qwen's tokenizer does. Lone surrogates become U+FFFD, as in tiktoken. NFC is applied here,
    because Python's tables have more marks than those of `tokenizers`."""
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return unicodedata.normalize("NFC", text)


def _convert(ranks: Path) -> "PreTrainedTokenizerFast":
    from tokenizers.normalizers import NFC
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    converter = TikTokenConverter(
        vocab_file=str(ranks), pattern=SPLIT_PATTERN, extra_special_tokens=list(SPECIAL_TOKENS)
    )
    backend = converter.converted()
    backend.normalizer = NFC()  # as Qwen's own tokenizer does
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT)
    if tokenizer.convert_tokens_to_ids(END_OF_TEXT) != NUM_RANKS:
        raise InputError(f"{ranks} does not have Qwen's {NUM_RANKS} ranks; use Qwen-7B's own qwen.tiktoken")
    _check_vocabulary(tokenizer, ranks)
    return tokenizer


def _packaged_ranks() -> Path:
    package = find_spec("dashscope")  # its import would take as long as that of transformers
    if package is None or not package.submodule_search_locations:
        raise InputError("Qwen's vocabulary comes with the package dashscope: pip install '.[demo]'")
    return Path(package.submodule_search_locations[0]) / "resources" / "qwen.tiktoken"
