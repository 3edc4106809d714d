"""A text's ids are those that Qwen's own tokenizer gives it, whichever file the vocabulary comes in."""

import base64
import random
import shutil
import unicodedata
from importlib.resources import files
from pathlib import Path

import pytest
import tiktoken
from transformers import PreTrainedTokenizerFast

from tests.support.checkout import CHECKOUT
from tokenization.config.sources import PACKAGED
from tokenization.errors import InputError
from tokenization.text_tokenizer import END_OF_TEXT, end_of_text_id, load_text_tokenizer, text_ids

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
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PreTrainedTokenizerFast]:
    """The vocabulary as packaged, as a rank file, in a folder as Qwen-7B's, and as a `tokenizer.json`."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "qwen").mkdir()
    shutil.copy(RANKS, folder / "qwen")
    cache = folder / "cache"
    packaged = load_text_tokenizer(PACKAGED, cache)
    packaged.save_pretrained(folder / "json")
    places = {"file": RANKS, "folder": folder / "qwen", "tokenizer.json": folder / "json"}
    return {"packaged": packaged} | {name: load_text_tokenizer(str(place), cache) for name, place in places.items()}


def corpus() -> list[str]:
    """English, Chinese, code, emoji, marks, and what is no valid text."""
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
def test_ids_are_qwens_own_whatever_file_they_come_from(
    qwen: tiktoken.Encoding, sources: dict[str, PreTrainedTokenizerFast]
) -> None:
    texts = corpus()
    # Qwen's tokenizer composes a text before tiktoken sees it, which replaces halves of surrogate pairs.
    expected = [qwen.encode_ordinary(unicodedata.normalize("NFC", text)) for text in texts]
    for name, tokenizer in sources.items():
        for text, ids, own in zip(texts, text_ids(tokenizer, texts), expected, strict=True):
            assert ids == own, f"{name}: {text!a}"
        assert end_of_text_id(tokenizer) == 151_643 and len(tokenizer) == 151_851


@pytest.mark.slow
def test_ids_that_are_no_valid_text_decode_as_qwens_own_decode(
    qwen: tiktoken.Encoding, sources: dict[str, PreTrainedTokenizerFast]
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
    with pytest.raises(InputError, match="has not Qwen's 151643 ranks"):
        load_text_tokenizer(str(tmp_path), tmp_path / "cache")
