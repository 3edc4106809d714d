"""Rows of tokens have the right values, and damaged samples become rejects."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from transformers import PreTrainedTokenizerFast

from tests.support.corpora import corpus_in
from tests.support.pictures import TarSample, noise_png, png, write_tar
from tests.support.tokens import FINGERPRINT
from tokenization.config.pictures import Transform
from tokenization.config.tokenization import TokenizationConfig
from tokenization.corpora.pictures import load_picture
from tokenization.corpora.tar import read_tar
from tokenization.demo.openmoji import list_drawings
from tokenization.errors import InputError
from tokenization.files.local_folder import LocalFolder
from tokenization.job.rows import read_chunks
from tokenization.table.manifest import check_settings, record_settings
from tokenization.table.pass_through import as_column, column_type
from tokenization.text_tokenizer import load_text_tokenizer

CONFIG = TokenizationConfig(size_px=32, encode_batch_size=4, max_caption_ids=3)


@pytest.mark.slow
def test_every_drawing_has_both_names_a_group_and_a_subject() -> None:
    drawings = list_drawings()
    assert len(drawings) == 3953
    assert len({d.caption_en for d in drawings}) == len({d.caption_zh for d in drawings}) == 3953
    dark = next(d for d in drawings if d.caption_en == "thumbs up dark skin tone")
    assert (dark.subject, dark.tone, dark.group_rank) == ("thumbs up", "dark", -1)
    assert dark.group == "Miscellaneous Symbols and Pictographs"


def test_alpha_lies_over_white_and_the_crop_is_the_middle_square() -> None:
    picture = Image.new("RGBA", (60, 20), (0, 0, 0, 0))
    picture.paste((255, 0, 0, 255), (20, 0, 40, 20))
    content = io.BytesIO()
    picture.save(content, "PNG")
    loaded = load_picture(content.getvalue(), Transform(20))
    assert (loaded.width, loaded.height, loaded.crop) == (60, 20, (20, 0, 20))
    assert (loaded.pixels == [255, 0, 0]).all()
    assert (load_picture(png(mode="RGBA", color=(9, 9, 9, 0)), Transform(8)).pixels == 255).all()


@pytest.mark.parametrize(
    ("mode", "color", "grey"),
    [("L", 77, 77), ("P", 0, 0), ("CMYK", (0, 0, 0, 155), 100), ("1", 1, 255), ("I;16", 77 * 257, 77)],
)
def test_every_mode_becomes_rgb(mode: str, color: int | tuple[int, ...], grey: int) -> None:
    content = io.BytesIO()
    Image.new(mode, (32, 32), color).save(content, "TIFF" if mode == "CMYK" else "PNG")
    pixels = load_picture(content.getvalue(), Transform(16)).pixels
    assert pixels.shape == (16, 16, 3)
    assert np.abs(pixels.astype(int) - grey).max() <= 1


def test_a_shard_cut_anywhere_is_refused_not_shortened(tmp_path: Path) -> None:
    write_tar(tmp_path / "whole.tar", [(f"{number}", noise_png(number), {"caption_en": "a"}) for number in range(3)])
    content = (tmp_path / "whole.tar").read_bytes()
    with tarfile.open(tmp_path / "whole.tar") as tar:
        ends = [member.offset for member in tar][1:]
    for end in (*ends, ends[-1] + 100, ends[-1] + 700):
        (tmp_path / "cut.tar").write_bytes(content[:end])
        with pytest.raises(InputError, match="no readable tar"):
            list(read_tar(tmp_path / "cut.tar", 10**9))
    assert len(list(read_tar(tmp_path / "whole.tar", 10**9))) == 3


def test_folders_in_a_shard_are_part_of_the_key_and_may_have_dots(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [(f"./v1.0/{number}", noise_png(1), {}) for number in range(2)])
    assert [sample.key for sample in read_tar(tmp_path / "a.tar", 10**9)] == ["v1.0/0", "v1.0/1"]


def test_a_token_folder_keeps_to_its_corpus(tmp_path: Path) -> None:
    output = LocalFolder(tmp_path / "tokens")
    mine = {"url": "mine", "layout": "parquet", "image_column": ""}
    check_settings(output, mine | {"url": "yours"}, FINGERPRINT)  # nothing is recorded yet
    record_settings(output, mine, FINGERPRINT)
    check_settings(output, mine, FINGERPRINT)
    with pytest.raises(InputError, match=r"another corpus: image_column \('', not 'b'\); url \('mine', not 'yours'\)"):
        check_settings(output, mine | {"url": "yours", "image_column": "b"}, FINGERPRINT)
    with pytest.raises(InputError, match=r"with another transform.size_px \(48, not 64\); vq_sha256 \('vq', not 'q'\)"):
        check_settings(output, mine, replace(FINGERPRINT, vq_sha256="q", transform={"size_px": 64}))


def test_metadata_of_no_common_type_is_kept_as_text(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"score": 1}, {"score": "high"}, {"score": None}, {"exif": {}}]
    for name, texts in {"score": ["1", '"high"', None, None], "exif": [None, None, None, "{}"]}.items():
        values = [row.get(name) for row in rows]
        assert as_column(values, column_type(values)).to_pylist() == texts


def test_rejects_name_key_and_reason_and_the_rest_goes_on(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    good = {"caption_en": "a very long caption indeed", "caption_zh": "猫", "score": 0.5}
    samples: list[TarSample] = [
        ("a", noise_png(1), good),
        ("b", png()[:60], good),
        ("c", None, good),
        ("d", noise_png(2), b"{"),
        ("e", noise_png(3), {"caption_en": " "}),
        ("f", noise_png(4), good),
        ("a", noise_png(5), good),
    ]
    write_tar(tmp_path / "x" / "s.tar", samples)
    chunks = list(read_chunks(corpus_in(tmp_path), "x/s.tar", CONFIG, tokenizer))
    rejects = {reject["key"]: reject["reason"] for chunk in chunks for reject in chunk.rejects}
    rows = [row for chunk in chunks for row in chunk.rows]
    assert [row["sample_id"] for row in rows] == ["x/s.tar/a", "x/s.tar/f"]
    assert rejects == {
        "a": "repeated key",
        "b": "bad picture",
        "c": "no picture",
        "d": "bad metadata",
        "e": "no caption",
    }
    assert rows[0]["score"] == 0.5
    assert rows[0]["captions"][0]["truncated"] and len(rows[0]["captions"][0]["ids"]) == 3


def test_the_last_batch_is_padded_so_codes_do_not_depend_on_company(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    write_tar(tmp_path / "s.tar", [(str(n), noise_png(n), {"caption_en": "x"}) for n in range(6)])
    chunks = list(read_chunks(corpus_in(tmp_path), "s.tar", CONFIG, tokenizer))
    assert [len(chunk.rows) for chunk in chunks] == [4, 2] and all(len(chunk.pixels) == 4 for chunk in chunks)
    assert [chunk.last for chunk in chunks] == [False, True]


def test_a_missing_an_empty_and_a_broken_corpus_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere' does not exist"):
        corpus_in(tmp_path / "nowhere")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        InputError,
        match=r"has no \.tar shard, no \.parquet shard, no \.jsonl shard of documents, no metadata.*files are 1 \.txt",
    ):
        corpus_in(tmp_path)
    (tmp_path / "bad.tar").write_bytes(b"this is no tar" * 100)
    with pytest.raises(InputError, match=r"bad\.tar.*no readable tar"):
        list(corpus_in(tmp_path).read("bad.tar"))
    pq.write_table(pa.table({"image": [noise_png(0)]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"files of webdataset and parquet; choose with --layout"):
        corpus_in(tmp_path)


@pytest.mark.slow
def test_a_folder_tokenizer_is_loaded_in_place(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.save_pretrained(tmp_path / "folder")
    loaded = load_text_tokenizer(str(tmp_path / "folder"), tmp_path / "cache")
    assert loaded("猫 cat")["input_ids"] == tokenizer("猫 cat")["input_ids"]
    with pytest.raises(InputError, match="does not exist"):
        load_text_tokenizer(str(tmp_path / "none"), tmp_path)


def test_metadata_must_be_an_object(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", [("a", noise_png(0), json.dumps([1]).encode())])
    assert next(read_tar(tmp_path / "s.tar", 10**9)).problem == ("bad metadata", ".json: it is a list, not an object")


def test_pixels_survive_the_round_trip_shape(tmp_path: Path) -> None:
    from tokenization.config.vqgan import VqganConfig
    from tokenization.vqgan.image_tokenizer import ImageTokenizer
    from tokenization.vqgan.model import build_vqgan

    config = VqganConfig(block_out_channels=(8, 8, 8, 8, 8), latent_channels=4, codebook_size=16)
    build_vqgan(config).save_pretrained(tmp_path)
    vqgan = ImageTokenizer(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    codes = vqgan.encode(pixels)
    assert codes.shape == (2, 16) and codes.max() < 16 and vqgan.factor == 16
    assert vqgan.decode(codes).shape == pixels.shape
