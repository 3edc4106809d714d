"""Qwen's text vocabulary as a fast tokenizer, from its rank file or from a Hugging Face folder."""

import hashlib
import os
import shutil
import unicodedata
import uuid
from importlib.resources import files
from pathlib import Path

from tokenizers.normalizers import NFC
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

from tokenization.config.sources import PACKAGED
from tokenization.errors import InputError
from tokenization.files.hashing import file_sha256

# Qwen splits like GPT-4's tokenizer, but splits digits one by one (Qwen's tokenization_qwen.py).
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = (END_OF_TEXT, "<|im_start|>", "<|im_end|>", *(f"<|extra_{number}|>" for number in range(205)))
"""Qwen-7B's 208 special tokens, in the order of their ids from 151,643 on."""
NUM_RANKS = 151_643
RANK_FILE = "qwen.tiktoken"
"""Name of the rank file in a folder of Qwen-7B."""


def load_text_tokenizer(source: str, cache: Path) -> PreTrainedTokenizerFast:
    """Loads the tokenizer that `source` names.

    Args:
        source: `dashscope` for the packaged rank file, the path of a `.tiktoken` rank file, or a local folder with a
            `tokenizer.json` or, as Qwen-7B's, with `qwen.tiktoken`. A folder's own code never runs.
        cache: folder for a converted rank file (the conversion takes seconds); a folder is loaded in place.

    Raises:
        InputError: there is no such file or folder, or it is no tokenizer.
    """
    path = _packaged_ranks() if source == PACKAGED else Path(source)
    if not path.exists():
        raise InputError(f"text tokenizer {source!r} does not exist; name {PACKAGED!r}, a .tiktoken file or a folder")
    if path.is_dir() and (path / "tokenizer.json").exists():
        return PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)
    if path.is_dir():
        path = path / RANK_FILE
        if not path.exists():
            raise InputError(
                f"text tokenizer folder {source!r} has neither tokenizer.json nor {RANK_FILE}; fetch the file that "
                "belongs to the language expert, or save the tokenizer with save_pretrained"
            )
    cached = cache / file_sha256(path)[:16]
    if not cached.exists():
        partial = cache / f".{uuid.uuid4().hex}"
        _convert(path).save_pretrained(partial)
        try:
            os.replace(partial, cached)
        except OSError:  # another process was faster, with the same content
            shutil.rmtree(partial)
    return PreTrainedTokenizerFast.from_pretrained(cached)


def text_vocabulary_sha256(tokenizer: PreTrainedTokenizerFast) -> str:
    """A hash of everything that decides the ids of a text."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def text_ids(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    """The ids of texts. Special tokens in a text, such as `<|endoftext|>`, are treated as ordinary text."""
    return tokenizer([_readable(text) for text in texts], split_special_tokens=True)["input_ids"] if texts else []


def end_of_text_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """The id that ends a caption.

    Raises:
        InputError: the tokenizer has none, so it is not one of Qwen's.
    """
    found = tokenizer.get_vocab().get(END_OF_TEXT)
    if found is None:
        raise InputError(
            f"the text tokenizer has no {END_OF_TEXT}, which all of Qwen's have; name the language expert's"
        )
    return int(found)


def _readable(text: str) -> str:
    """Normalises the text as Qwen's tokenizer does. Lone surrogates become U+FFFD, as in tiktoken. NFC is applied here,
    because Python's tables have more marks than those of `tokenizers`."""
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return unicodedata.normalize("NFC", text)


def _convert(ranks: Path) -> PreTrainedTokenizerFast:
    converter = TikTokenConverter(
        vocab_file=str(ranks), pattern=SPLIT_PATTERN, extra_special_tokens=list(SPECIAL_TOKENS)
    )
    backend = converter.converted()
    backend.normalizer = NFC()  # as Qwen's own tokenizer does
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT)
    if tokenizer.convert_tokens_to_ids(END_OF_TEXT) != NUM_RANKS:
        raise InputError(f"{ranks} has not Qwen's {NUM_RANKS} ranks; use Qwen-7B's own qwen.tiktoken")
    return tokenizer


def _packaged_ranks() -> Path:
    try:
        return Path(str(files("dashscope") / "resources" / "qwen.tiktoken"))
    except ModuleNotFoundError as error:
        raise InputError("Qwen's vocabulary comes with the package dashscope: pip install '.[demo]'") from error
