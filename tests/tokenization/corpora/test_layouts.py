"""Every layout of a corpus gives the same samples, and what is damaged in one is named."""

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from transformers import PreTrainedTokenizerFast

from tests.support.corpora import corpus_in
from tests.support.pictures import noise_png, write_tar
from tokenization.config.pictures import Limits, Transform
from tokenization.config.tokenization import TokenizationConfig
from tokenization.corpora.pictures import load_picture
from tokenization.errors import InputError
from tokenization.job.chosen import check_query
from tokenization.job.rows import read_chunks

ROWS = [{"caption": f"picture {row}", "score": row / 2} for row in range(5)]


def write_parquet(path: Path, rows: Any = ROWS, column: str = "image", struct: bool = True, **extra: Any) -> None:
    contents = [noise_png(row) for row in range(len(rows))]
    pictures = [{"bytes": content, "path": "x.png"} for content in contents] if struct else contents
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.Table.from_pylist([row | {column: p} | extra for row, p in zip(rows, pictures, strict=True)]), path
    )


def write_folder(folder: Path, suffix: str) -> None:
    (folder / "deep").mkdir(parents=True)
    lines = [{"file_name": f"deep/{row}.png"} | ROWS[row] for row in range(5)]
    for row in range(5):
        (folder / "deep" / f"{row}.png").write_bytes(noise_png(row))
    if suffix == "jsonl":
        (folder / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    else:
        with (folder / "metadata.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, lines[0].keys())
            table.writeheader()
            table.writerows(lines)


@pytest.mark.parametrize("kind", ["webdataset", "parquet", "parquet bytes", "imagefolder jsonl", "imagefolder csv"])
def test_every_layout_is_detected_and_gives_the_same_pictures_and_captions(tmp_path: Path, kind: str) -> None:
    layout, _, detail = kind.partition(" ")
    if layout == "webdataset":
        write_tar(tmp_path / "a" / "0.tar", [(str(row), noise_png(row), ROWS[row]) for row in range(5)])
    elif layout == "parquet":
        write_parquet(tmp_path / "a" / "0.parquet", struct=not detail, column="jpg" if detail else "image")
    else:
        write_folder(tmp_path, detail)
    corpus = corpus_in(tmp_path, folder_shard_rows=2)
    assert corpus.layout == layout
    samples = [sample for shard in corpus.shards for sample in corpus.read(shard)]
    assert [sample.picture for sample in samples] == [noise_png(row) for row in range(5)]
    assert [sample.metadata["caption"] for sample in samples] == [row["caption"] for row in ROWS]
    assert [float(sample.metadata["score"]) for sample in samples] == [row["score"] for row in ROWS]
    assert len({(shard, sample.key) for shard in corpus.shards for sample in corpus.read(shard)}) == 5
    if layout == "imagefolder":
        assert corpus.shards == ["000000", "000001", "000002"]


def test_an_imagefolder_names_what_it_cannot_use(tmp_path: Path) -> None:
    outside = tmp_path / "secret.png"
    outside.write_bytes(noise_png(9))
    folder = tmp_path / "corpus"
    write_folder(folder, "jsonl")
    (folder / "unnamed.png").write_bytes(noise_png(7))
    lines = ["{", "[1]", '{"caption": "no name"}', '{"file_name": "../secret.png"}', '{"file_name": "gone.png"}']
    lines += [json.dumps({"file_name": "deep/1.png", "caption": "again"}), json.dumps({"file_name": str(outside)})]
    with (folder / "metadata.jsonl").open("a") as file:
        file.write("\n" + "\n".join(lines))
    corpus = corpus_in(folder)
    problems = [sample.problem[0] for sample in corpus.read("000000") if sample.problem]
    expected = ["bad metadata"] * 3 + ["no caption", "repeated key"] + ["no picture"] * 3
    assert sorted(problems) == sorted(expected)
    assert sum(sample.picture is not None for sample in corpus.read("000000")) == 5


def test_csv_rows_that_do_not_fit_are_named(tmp_path: Path) -> None:
    write_folder(tmp_path, "csv")
    with (tmp_path / "metadata.csv").open("ab") as file:
        file.write(b"deep/1.png\r\ndeep/2.png,a,1,more\r\ndeep/3.png,\xff\xfe,2\r\n")
    problems = [sample.problem for sample in corpus_in(tmp_path).read("000000") if sample.problem]
    assert len(problems) == 3 and {reason for reason, _ in problems} == {"bad metadata"}
    (tmp_path / "metadata.csv").write_text("name,caption\n1.png,x\n")
    with pytest.raises(InputError, match="no column file_name"):
        corpus_in(tmp_path).shards  # noqa: B018


def test_a_parquet_without_a_picture_column_or_cut_short_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", column="pixels", second=b"x")
    with pytest.raises(InputError, match=r"--image-column; the columns are .*pixels"):
        list(corpus_in(tmp_path).read("a.parquet"))
    assert len(list(corpus_in(tmp_path, image_column="pixels").read("a.parquet"))) == 5
    with pytest.raises(InputError, match="column 'score' holds double"):
        list(corpus_in(tmp_path, image_column="score").read("a.parquet"))
    with pytest.raises(InputError, match="no column 'x'"):
        list(corpus_in(tmp_path, image_column="x").read("a.parquet"))
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"shard 'a.parquet' of .*no readable parquet"):
        list(corpus_in(tmp_path).read("a.parquet"))


def test_parquet_rows_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", struct=False)
    table = pq.read_table(tmp_path / "a.parquet")
    broken = pa.array([b"fine", b"\xff\xfe", None, b"x", b"y"], pa.binary()).cast(pa.string(), safe=False)
    empty = pa.array([None if row == 3 else noise_png(row) for row in range(5)], pa.binary())
    table = table.set_column(table.schema.get_field_index("caption"), "caption", broken).set_column(
        table.schema.get_field_index("image"), "image", empty
    )
    pq.write_table(table, tmp_path / "a.parquet")
    samples = list(corpus_in(tmp_path).read("a.parquet"))
    assert [sample.problem[0] if sample.problem else "" for sample in samples] == [
        "",
        "bad metadata",
        "",
        "no picture",
        "",
    ]


@pytest.mark.slow
def test_a_large_jpeg_is_decoded_small_and_looks_the_same(tmp_path: Path) -> None:

    y, x = np.mgrid[0:1500, 0:2400]
    waves = np.stack([127 + 120 * np.sin(x / 90), 127 + 120 * np.cos(y / 70), 127 + 120 * np.sin((x + y) / 110)], -1)
    content = {}
    for kind, how in (("JPEG", {"quality": 95, "progressive": True}), ("PNG", {})):
        stream = io.BytesIO()
        Image.fromarray(waves.astype(np.uint8)).save(stream, kind, **how)
        content[kind] = load_picture(stream.getvalue(), Transform(64, 128))
    jpeg, png = content["JPEG"], content["PNG"]
    assert (jpeg.width, jpeg.height, jpeg.crop) == (png.width, png.height, png.crop) == (2400, 1500, (450, 0, 1500))
    assert jpeg.high and png.high
    for own, other in ((jpeg.pixels, png.pixels), (jpeg.high(), png.high())):
        assert np.abs(own.astype(int) - other).mean() < 1.5


def test_documents_keep_their_order_and_are_whole_or_not_there(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    for row in range(6):
        (tmp_path / "p").mkdir(exist_ok=True)
        (tmp_path / "p" / f"{row}.png").write_bytes(noise_png(row) if row != 4 else b"no picture")
    documents = [
        {
            "id": "a",
            "lang": "en",
            "segments": [{"text": "one "}, {"text": "two"}, {"image": "p/0.png"}, {"image": "p/1.png"}],
        },
        {
            "id": "b",
            "segments": [{"image": "p/2.png"}, {"text": "mid <|endoftext|>"}, {"image": "p/3.png"}, {"text": "end"}],
        },
        {"id": "c", "segments": [{"image": "p/4.png"}, {"image": "p/5.png"}]},
        {"id": "d", "segments": [{"image": "../p/5.png"}, {"image": "/etc/passwd"}]},
        {"id": "e", "segments": [{"text": "no picture"}]},
        {"id": "f", "segments": [{"image": 3}]},
        {"id": "g", "segments": "text"},
    ]
    (tmp_path / "docs.jsonl").write_text("\n".join(json.dumps(line) for line in documents) + "\n{")
    corpus = corpus_in(tmp_path)
    assert (corpus.layout, corpus.shards) == ("documents", ["docs.jsonl"])
    config = TokenizationConfig(size_px=32, encode_batch_size=3, limits=Limits())
    chunks = list(read_chunks(corpus, "docs.jsonl", config, tokenizer))
    rows = [row for chunk in chunks for row in chunk.rows]
    assert [len(chunk.rows) for chunk in chunks] == [3, 1]

    def texts(row: dict) -> tuple:
        document = row["document"]
        return document["place"], *(tokenizer.decode(document[name]) for name in ("before", "after"))

    assert [texts(row) for row in rows] == [
        (0, "one two", ""),
        (1, "", ""),
        (0, "", ""),
        (1, "mid <|endoftext|>", "end"),
    ]
    assert len({row["document"]["id"] for row in rows}) == 2 and rows[0]["lang"] == "en" and rows[0]["captions"] == []
    rejects = [(reject["key"], reject["reason"]) for chunk in chunks for reject in chunk.rejects]
    assert rejects == [
        ("3:c/0", "bad picture"),
        ("3:c/1", "bad document"),
        ("4:d/0", "no picture"),
        ("4:d/1", "no picture"),
        *((str(number), "bad metadata") for number in range(5, 9)),
    ]


def test_links_lead_into_no_folder_twice_and_devices_are_no_pictures(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", "jsonl")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "gone.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "in" / "zero.png").symlink_to("/dev/zero")
    with (tmp_path / "in" / "metadata.jsonl").open("a") as file:
        file.write("".join(f'\n{{"file_name": "{name}.png", "caption": "x"}}' for name in ("gone", "zero")))
    samples = list(corpus_in(tmp_path / "in").read("000000"))
    assert len(samples) == 7
    assert {sample.key: sample.problem[0] for sample in samples if sample.problem} == dict.fromkeys(
        ("gone.png", "zero.png"), "no picture"
    )


def test_names_that_are_no_utf8_are_readable_in_the_books(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "in") + b"/caf\xe9"
    os.makedirs(folder)
    with open(folder + b"/0.png", "wb") as file:
        file.write(noise_png(0))
    with open(folder + b"/metadata.jsonl", "w") as file:
        file.write('{"file_name": "0.png", "caption": "x"}\n{')
    samples = list(corpus_in(tmp_path / "in").read("000000"))
    assert [(sample.picture is not None, bool(sample.problem)) for sample in samples] == [(True, False), (False, True)]
    assert all(sample.key.encode() for sample in samples)


def test_a_picture_comes_or_goes_and_the_folders_shards_are_others(tmp_path: Path) -> None:
    write_folder(tmp_path, "jsonl")
    before = corpus_in(tmp_path).description()
    assert corpus_in(tmp_path).description() == before
    (tmp_path / "deep" / "9.png").write_bytes(noise_png(9))
    assert corpus_in(tmp_path).description() != before
    assert corpus_in(tmp_path, folder_shard_rows=2).description() != before


def test_the_high_resolution_is_for_the_rows_of_a_filter(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    write_folder(tmp_path, "csv")
    how: dict[str, Any] = {
        "caption_columns": {"caption": "en"},
        "encode_batch_size": 2,
        "size_px": 16,
        "size_hr_px": 48,
    }
    for where, chosen in (("score >= 1", [2, 3, 4]), ("", [0, 1, 2, 3, 4]), ("beauty > 1", [])):
        config = TokenizationConfig(hr_where=where, **how)
        chunks = list(read_chunks(corpus_in(tmp_path), "000000", config, tokenizer))
        places = [2 * chunk.index + place for chunk in chunks for place in chunk.places_hr]
        assert places == chosen
        assert sum(len(chunk.pixels_hr) for chunk in chunks if chunk.pixels_hr is not None) == len(chosen)
    for wrong in ("score >> = 6", "(", "sample_id >= 6"):
        with pytest.raises(InputError, match="cannot be applied"):
            check_query(wrong)
            list(read_chunks(corpus_in(tmp_path), "000000", TokenizationConfig(hr_where=wrong, **how), tokenizer))
