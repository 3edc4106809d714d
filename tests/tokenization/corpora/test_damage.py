"""More than a thousand damaged samples: nothing crashes, hangs, or is lost from the books."""

import io
import json
import random
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from transformers import PreTrainedTokenizerFast

from tests.support.checkout import CHECKOUT
from tests.support.corpora import corpus_in
from tests.support.pictures import TarSample, noise_png, write_tar
from tests.support.small_run import small_vqgan
from tokenization.config.pictures import Limits, Transform
from tokenization.config.tokenization import TokenizationConfig
from tokenization.corpora.pictures import load_picture
from tokenization.job.rows import read_chunks
from tokenization.text_tokenizer import NUM_RANKS, text_ids

CONFIG = TokenizationConfig(size_px=32, encode_batch_size=16, caption_columns={"caption": "en"}, max_caption_ids=50)
FORMATS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"progressive": True},
    "WEBP": {},
    "GIF": {},
    "TIFF": {"compression": "tiff_lzw"},
    "BMP": {},
}
GOOD = {"caption": "a red cat"}


def encoded(kind: str, seed: int, size: tuple[int, int] = (40, 30), mode: str = "RGB", **how: Any) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, kind, **how)
    return stream.getvalue()


def png_of_size(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG whose header promises a size."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def damaged_pictures() -> Iterator[Any]:
    chance = random.Random(0)
    for number in range(150):
        for kind, how in FORMATS.items():
            whole = encoded(kind, number, **how)
            if number % 2:
                yield whole[: chance.randrange(len(whole))]
            else:
                flipped = bytearray(whole)
                for _ in range(chance.choice((1, 10, 200))):
                    flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
                yield bytes(flipped)
    for number in range(30):
        yield b""
        yield b"\x00" * number
        yield f"<html>404 {number}</html>".encode()
        yield chance.randbytes(500)
        yield encoded("PNG", number)[:8] + chance.randbytes(300)
    yield png_of_size(60_000, 60_000, zlib.compress(b"\x00" * 1_000_000))  # a bomb
    yield png_of_size(2**31 - 1, 2**31 - 1)
    yield png_of_size(0, 5)
    yield png_of_size(100_000, 10, zlib.compress(b"\x00" * 3_000_010))
    yield b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/tmp/mars-was-here) (w) file closefile\nshowpage\n"


def damaged_metadata() -> Iterator[Any]:
    yield from (b"", b"{", b"[]", b"null", b"3", b"\xff\xfe", b'{"caption": "\xff"}', b'{"caption": "\\ud800"}')
    yield from (json.dumps({"caption": value}).encode() for value in (None, "", "  ", 3, ["a"], {"a": 1}, True))
    yield from (b"{}", b'{"other": "x"}', b"[" * 100_000, b'{"caption": ' + b"9" * 5000 + b"}")


def damaged_samples() -> list[TarSample]:
    samples: list[TarSample] = [
        (f"picture{number}", content, GOOD) for number, content in enumerate(damaged_pictures())
    ]
    for number in range(8):
        for place, content in enumerate(damaged_metadata()):
            samples.append((f"text{number}-{place}", noise_png(place), content))
    samples += [("good", noise_png(1), GOOD), ("lone", None, GOOD), ("good", noise_png(1), GOOD)]
    assert len(samples) > 1000
    return samples


@pytest.mark.slow
def test_a_thousand_damaged_samples_close_the_books(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    samples = damaged_samples()
    write_tar(tmp_path / "a.tar", samples)
    chunks = list(read_chunks(corpus_in(tmp_path), "a.tar", CONFIG, tokenizer))
    rows = [row["sample_id"] for chunk in chunks for row in chunk.rows]
    rejects = [reject for chunk in chunks for reject in chunk.rejects]
    assert len(rows) + len(rejects) == len(samples)
    assert sorted([row.removeprefix("a.tar/") for row in rows] + [r["key"] for r in rejects]) == sorted(
        key for key, *_ in samples
    )
    assert len(rejects) > 700 and all(reject["reason"] and reject["message"] for reject in rejects)
    reasons = {reject["reason"] for reject in rejects}
    assert reasons == {"bad picture", "bad metadata", "bad caption", "no caption", "no picture", "repeated key"}
    json.dumps(rejects, ensure_ascii=False).encode()  # as they are written
    assert not Path("/tmp/mars-was-here").exists(), "Ghostscript ran what a picture said"
    for chunk in chunks:
        assert len(chunk.rows) <= CONFIG.encode_batch_size == len(chunk.pixels)


@pytest.mark.slow
def test_text_that_looks_like_a_special_token_stays_text(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["<|endoftext|>", "a <|im_start|>b<|im_end|> <|extra_0|>", "<img></img>", "nul \x00 end", "𝕬 é 👩‍🚀"]
    for text, ids in zip(texts, text_ids(tokenizer, texts), strict=True):
        assert max(ids) < NUM_RANKS and tokenizer.decode(ids) == text
    write_tar(tmp_path / "a.tar", [("a", noise_png(1), {"caption": "<|endoftext|>" * 9})])
    (chunk,) = read_chunks(corpus_in(tmp_path), "a.tar", CONFIG, tokenizer)
    assert max(chunk.rows[0]["captions"][0]["ids"]) < NUM_RANKS


@pytest.mark.slow
@pytest.mark.parametrize("text", ["a" * 100_000, "猫" * 100_000, "ab " * 33_000, "\x00" * 100_000])
def test_an_endless_caption_is_cut_and_marked(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    write_tar(tmp_path / "a.tar", [("a", noise_png(1), {"caption": text})])
    (chunk,) = read_chunks(corpus_in(tmp_path), "a.tar", CONFIG, tokenizer)
    (caption,) = chunk.rows[0]["captions"]
    assert caption["truncated"] and len(caption["ids"]) == 50 and caption["text"] == text


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_bytes": 100}, "more than max_bytes 100"),
        ({"max_pixels": 1199}, "40 x 30 px, more than max_pixels 1199"),
        ({"max_side_px": 39}, "longer than max_side_px 39"),
        ({"min_side_px": 31}, "shorter than min_side_px 31"),
        ({"max_aspect_ratio": 1.3}, "beyond max_aspect_ratio 1.3"),
        ({"max_pixels": 10**10, "max_bytes": 10}, "more than max_bytes 10"),
        ({}, ""),
    ],
)
def test_limits_are_options(limits: dict[str, Any], message: str) -> None:
    transform = Transform(16, limits=Limits(**limits))
    if message:
        with pytest.raises(ValueError, match=message):
            load_picture(encoded("PNG", 0), transform)
    else:
        load_picture(encoded("PNG", 0), transform)


@pytest.mark.slow
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    truth = Image.new("RGB", (900, 600), "white")
    truth.paste("red", (0, 0, 450, 300))
    turn = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }.get(orientation, [])
    stored = truth
    for step in turn:
        stored = stored.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    stored.save(stream, kind, exif=exif)
    picture = load_picture(stream.getvalue(), Transform(32))
    assert (picture.width, picture.height, picture.crop) == (900, 600, (150, 0, 600))
    assert picture.pixels[4, 4].tolist() == pytest.approx([255, 0, 0], abs=12)
    red = picture.pixels[..., 1] < 128
    assert red[:15, :15].all() and not red[17:].any() and not red[:, 17:].any()


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        stream = io.BytesIO()
        frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
        assert load_picture(stream.getvalue(), Transform(16)).pixels[8, 8].tolist() == pytest.approx([255, 0, 0], abs=3)


@pytest.mark.parametrize(
    ("mode", "kind"), [("LAB", "TIFF"), ("LA", "PNG"), ("P", "GIF"), ("YCbCr", "JPEG"), ("CMYK", "JPEG")]
)
def test_rarer_modes_keep_their_colours(mode: str, kind: str) -> None:
    truth = Image.new("RGB", (32, 32), (200, 200, 200))
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        picture = ImageCms.profileToProfile(truth, *profiles, outputMode="LAB")
    else:
        picture = truth.convert(mode)
    stream = io.BytesIO()
    picture.save(stream, kind)
    assert np.abs(load_picture(stream.getvalue(), Transform(16)).pixels.astype(int) - 200).max() <= 8


@pytest.mark.long
def test_the_whole_job_ends_with_closed_books_and_writes_nothing_elsewhere(tmp_path: Path) -> None:
    """All damaged samples, tars whose members want to be elsewhere, and a shard that is no tar, through Ray Data."""
    inputs, root = tmp_path / "inputs", tmp_path / "root"
    small_vqgan(1.0).save_pretrained(inputs / "vq")
    samples = damaged_samples()
    for start in range(0, len(samples), 200):
        write_tar(inputs / "corpus" / f"{start:05d}.tar", samples[start : start + 200])
    with tarfile.open(inputs / "corpus" / "names.tar", "w") as tar:
        for name in (str(tmp_path / "absolute.png"), "../../up.png", "link.png", "device.png", "inside.png"):
            info = tarfile.TarInfo(name)
            info.type = {"link.png": tarfile.SYMTYPE, "device.png": tarfile.CHRTYPE}.get(name, tarfile.REGTYPE)
            info.linkname = "/etc/passwd" if name == "link.png" else ""
            content = noise_png(1) if info.isreg() else b""
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (inputs / "corpus" / "torn.tar").write_bytes(b"no tar at all" * 100)
    before = {path: path.read_bytes() for path in inputs.rglob("*") if path.is_file()}
    words = ["--corpus", str(inputs / "corpus"), "--captions", "en=caption", "--resolution", "32", "--json"]
    words += ["--root", str(root), "--encode-batch-size", "16", "--set", f"vqgan_folder={inputs / 'vq'}"]
    command = [sys.executable, "-P", str(CHECKOUT / "jobs" / "tokenize.py"), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 4 and "torn.tar" in done.stderr, done.stderr
    manifest = json.loads(done.stdout.splitlines()[-1])
    assert list(manifest["failed_shards"]) == ["torn.tar"]
    assert manifest["rows_in"] == manifest["rows_out"] + manifest["rows_rejected"] >= len(samples)
    tokens = root / "demo" / "tokens"
    kept = sum(pq.read_metadata(path).num_rows for path in tokens.glob("*.parquet"))
    rejects = [json.loads(line) for path in tokens.rglob("*.jsonl") for line in path.read_text().splitlines()]
    assert (kept, len(rejects)) == (manifest["rows_out"], manifest["rows_rejected"])
    assert {path: path.read_bytes() for path in inputs.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inputs", "root"]
