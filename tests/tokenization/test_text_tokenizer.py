"""A text's ids are those that Qwen's own tokenizer gives it, whichever file the vocabulary comes in."""

import base64
import json
import random
import shutil
import unicodedata
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as DecodeByteLevel
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from tests.support.checkout import CHECKOUT
from tokenization.config.sources import PACKAGED
from tokenization.errors import InputError
from tokenization.text_tokenizer import (
    END_OF_TEXT,
    FastTextTokenizer,
    check_fits,
    end_of_text_id,
    load_fast_text_tokenizer,
    load_text_tokenizer,
    text_ids,
    text_vocabulary_sha256,
)

RANKS = Path(str(files("dashscope") / "resources" / "qwen.tiktoken"))
# As Qwen's public tokenizer has it; not taken from the package.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.fixture(scope="module")
def qwen() -> tiktoken.Encoding:
    lines = (line.split() for line in RANKS.read_bytes().splitlines() if line)
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    return tiktoken.Encoding("qwen", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The vocabulary as packaged, as a rank file, in a folder as Qwen-7B's, and as a `tokenizer.json`; and as readers
    of a corpus have it, without transformers."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "qwen").mkdir()
    shutil.copy(RANKS, folder / "qwen")
    cache = folder / "cache"
    packaged = load_text_tokenizer(PACKAGED, cache)
    packaged.save_pretrained(folder / "json")
    places = {"file": RANKS, "folder": folder / "qwen", "tokenizer.json": folder / "json"}
    fast = {f"fast {source}": load_fast_text_tokenizer(source, cache) for source in (PACKAGED, str(folder / "json"))}
    loaded = {name: load_text_tokenizer(str(place), cache) for name, place in places.items()}
    return {"packaged": packaged} | loaded | fast


def corpus() -> list[str]:
    """English, Chinese, code, emoji, marks, and invalid text."""
    texts = [
        "Hello, world 2026! It's I'LL we've 3.14159",
        "墨镜笑脸：你好，世界。繁體字「引號」　全形空格",
        "café nai\u0308ve A\u030angstro\u0308m ｶﾞ \u1112\u1161\u11ab",
        "👩‍🚀🏳️‍🌈👍🏿🇨🇳 ☂️ 1️⃣",
        "\t\t  \r\n\r\n   x \u00a0\u200b\u2028y  ",
        f"{END_OF_TEXT}<|im_start|>user",
        "\ud83d alone, \udc4d too, and \ud83d\udc4d as halves",
        "\x00\x07\x1b[0m\ufffd\ufffe\U0010ffff\ue000",
        "",
    ]
    texts += (CHECKOUT / "pipeline" / "model" / "layers.py").read_text().split("\n\n")
    rng = random.Random(0)
    ranges = [(0x20, 0x7F), (0x4E00, 0x9FFF), (0x1F300, 0x1FAFF), (0x80, 0x3000), (0x10000, 0x10FFFF), (0xD800, 0xE000)]
    pieces = ["\u200d", "\ufe0f", "\u0301", "\u08d2", "\r\n", "  ", "'s", "1234", "def ", "\u3000", "\u1100\u1161"]
    for _ in range(3000):
        letters = [chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randrange(1, 20))]
        letters += rng.choices(pieces, k=rng.randrange(4))
        rng.shuffle(letters)
        texts.append("".join(letters))
    return texts


@pytest.mark.slow
def test_ids_are_qwens_own_whatever_file_they_come_from(qwen: tiktoken.Encoding, sources: dict[str, Any]) -> None:
    texts = corpus()
    # Qwen's tokenizer composes a text before tiktoken sees it, which replaces halves of surrogate pairs.
    expected = [qwen.encode_ordinary(unicodedata.normalize("NFC", text)) for text in texts]
    for name, tokenizer in sources.items():
        for text, ids, own in zip(texts, text_ids(tokenizer, texts), expected, strict=True):
            assert ids == own, f"{name}: {text!a}"
        assert len(tokenizer) == 151_851
        assert isinstance(tokenizer, FastTextTokenizer) or end_of_text_id(tokenizer) == 151_643


@pytest.mark.slow
def test_ids_that_are_no_valid_text_decode_as_qwens_own_decode(
    qwen: tiktoken.Encoding, sources: dict[str, Any]
) -> None:
    cut = [ids[:-1] for text in corpus()[:1000] if (ids := qwen.encode_ordinary(text))]
    cut += [[rank] for rank in range(256)]
    broken = 0
    for ids in cut:
        own = qwen.decode(ids)
        broken += "\ufffd" in own
        assert sources["packaged"].decode(ids) == own
    assert broken > 100, "nothing was cut inside of a letter"


def test_a_folder_without_a_vocabulary_or_of_another_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither tokenizer.json nor qwen.tiktoken"):
        load_text_tokenizer(str(tmp_path), tmp_path / "cache")
    (tmp_path / "qwen.tiktoken").write_bytes(b"".join(RANKS.read_bytes().splitlines(keepends=True)[:1000]))
    with pytest.raises(InputError, match="does not have Qwen's 151643 ranks"):
        load_text_tokenizer(str(tmp_path), tmp_path / "cache")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small tokenizer of bytes, with added tokens as Qwen2.5 and Qwen3 have them."""
    backend = Tokenizer(BPE({letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}, []))
    backend.pre_tokenizer, backend.decoder = ByteLevel(add_prefix_space=False), DecodeByteLevel()
    backend.add_special_tokens([END_OF_TEXT, "<|im_start|>"])
    backend.add_tokens(["<think>", "</think>", AddedToken("cat", single_word=True)])
    folder = tmp_path_factory.mktemp("small")
    backend.save(str(folder / "tokenizer.json"))
    return folder


def test_added_tokens_special_or_not_are_ordinary_text(small: Path, tmp_path: Path) -> None:
    """Else a caption with `<think>` would teach the model to think."""
    tokenizer = load_text_tokenizer(str(small), tmp_path)
    texts = ["<think> a cat </think>", f"{END_OF_TEXT}<|im_start|>", "a red cat"]
    assert max(max(ids) for ids in tokenizer(texts)["input_ids"]) >= 256, "as tokens they have ids of their own"
    for text, ids in zip(texts, text_ids(tokenizer, texts), strict=True):
        assert max(ids) < 256 and len(ids) == len(text) and tokenizer.decode(ids) == text
    assert text_ids(tokenizer, []) == [] and end_of_text_id(tokenizer) == 256
    fast = load_fast_text_tokenizer(str(small), tmp_path)
    assert text_ids(fast, texts) == text_ids(tokenizer, texts) and len(fast) == len(tokenizer)


def test_a_tokenizer_json_by_itself_is_the_tokenizer_of_its_folder(small: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    load_text_tokenizer(str(small), tmp_path).save_pretrained(saved)
    assert (saved / "tokenizer_config.json").exists()
    shutil.copy(small / "tokenizer.json", tmp_path / "my-tokenizer.json")
    named = [small, small / "tokenizer.json", tmp_path / "my-tokenizer.json", saved, saved / "tokenizer.json"]
    loaded = [load_text_tokenizer(str(location), tmp_path) for location in named]
    assert len({text_vocabulary_sha256(tokenizer) for tokenizer in loaded}) == 1
    texts = corpus()[:6]
    assert all(text_ids(tokenizer, texts) == text_ids(loaded[0], texts) for tokenizer in loaded)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", POINTER, "it is a Git LFS pointer; fetch the file itself with git lfs pull"),
        ("tokenizer.json", b"<html><title>Sign in</title></html>", "it is an HTML page"),
        ("tokenizer.json", b"", "it is an empty file"),
        ("tokenizer.json", b'{"version": "1.0", "model": {"type', "fetch it again"),
        ("tokenizer.json", b"{}", "fetch it again"),
        ("qwen.tiktoken", POINTER, "it is a Git LFS pointer"),
        ("qwen.tiktoken", b"no ranks at all\n", "fetch it again"),
        ("qwen.tiktoken", bytes(600), "nothing but zeros"),
    ],
)
def test_pointers_and_broken_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    for location in (tmp_path, tmp_path / name):
        with pytest.raises(InputError, match=f"is not readable: .*{message}") as refused:
            load_text_tokenizer(str(location), tmp_path / "cache")
        assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def described(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Qwen's `tokenizer.json`."""
    found: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return found


def changed(described: dict[str, Any], change: str) -> dict[str, Any]:
    """A `tokenizer.json` of Qwen's with a change that leaves it readable."""
    model = described["model"]
    vocab = dict(model["vocab"])
    if change == "two words swapped":
        vocab["Ġcat"], vocab["Ġdog"] = vocab["Ġdog"], vocab["Ġcat"]
        model = model | {"merges": model["merges"][:100]}
    elif change == "GPT-2's size":
        vocab = {token: number for token, number in vocab.items() if number < 50_257}
        model = model | {"merges": []}
    else:
        model = model | {"merges": model["merges"][:100]}
    return described | {"model": model | {"vocab": vocab}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("two words swapped", "has another vocabulary than Qwen's, of 151643 tokens"),
        ("GPT-2's size", "has another vocabulary than Qwen's, of 50257 tokens"),
        ("few merges", "has Qwen's vocabulary, but splits texts in another way"),
    ],
)
def test_another_vocabulary_is_refused(described: dict[str, Any], tmp_path: Path, change: str, message: str) -> None:
    """Its ids would name other words of the language expert."""
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(changed(described, change)))
    with pytest.raises(InputError, match=message):
        load_text_tokenizer(str(path), tmp_path)


def test_a_small_vocabulary_does_not_fit_a_published_qwen(small: Path, tmp_path: Path) -> None:
    tokenizer = load_text_tokenizer(str(small), tmp_path)
    check_fits(tokenizer, 300)
    with pytest.raises(InputError, match=r"has 261 ids, and the language expert 151936 rows, as Qwen's have"):
        check_fits(tokenizer, 151_936)
