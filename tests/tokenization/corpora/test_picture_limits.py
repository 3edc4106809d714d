"""Limits hold before anything is decoded, and no file takes much time or memory."""

import io
import random
import resource
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.picture_files import jpeg_segment, png_chunk, saved, tiff, with_chunks, with_segments
from tokenization.config.pictures import Limits, Transform
from tokenization.corpora import jpeg_2000, picture_formats, picture_parts, pictures
from tokenization.corpora.jpeg_xl import read_header
from tokenization.corpora.picture_metadata import MAX_VALUES
from tokenization.corpora.picture_parts import BoundedFile
from tokenization.corpora.pictures import load_picture


def promised_png(width: int, height: int, rows: int = 1000) -> bytes:
    """A PNG that promises a size, and has a few of its rows."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = zlib.compress(bytes(min(rows, height) * (1 + 3 * width)), 1)
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")


def icon(inside: bytes) -> bytes:
    """An icon that says 32 x 32 px of the picture in it."""
    return struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 32, 32, 0, 0, 1, 32, len(inside), 22) + inside


def mac_icon(inside: bytes) -> bytes:
    block = b"ic08" + struct.pack(">I", 8 + len(inside)) + inside
    return b"icns" + struct.pack(">I", 8 + len(block)) + block


@pytest.mark.parametrize("container", [icon, mac_icon])
def test_a_picture_in_an_icon_keeps_to_the_limits_before_it_is_decoded(container: object) -> None:
    assert callable(container)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ValueError, match="more than max_pixels 89000000"):
        load_picture(container(promised_png(30_000, 30_000, rows=10)), Transform(16))
    assert time.process_time() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024, "KiB"
    with pytest.raises(ValueError, match="picture has 256 x 256 px, longer than max_side_px 255"):
        load_picture(container(saved("PNG", (256, 256))), Transform(16, limits=Limits(max_side_px=255)))
    assert load_picture(container(saved("PNG", (256, 256))), Transform(16)).width == 256


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "MPO", "PNG", "WEBP"])
def test_of_several_pictures_in_a_file_only_the_first_counts(kind: str) -> None:
    small, large = Image.new("RGB", (40, 30), "red"), Image.new("RGB", (400, 300), "blue")
    if kind in ("GIF", "PNG", "WEBP"):
        large = large.resize((40, 30))
    stream = io.BytesIO()
    small.save(stream, kind, save_all=True, append_images=[large])
    picture = load_picture(stream.getvalue(), Transform(16, limits=Limits(max_side_px=100)))
    assert (picture.width, picture.height) == (40, 30)
    assert picture.pixels[8, 8].tolist() == pytest.approx([255, 0, 0], abs=3)


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded() -> None:
    """Each scan goes over all pixels, however few bytes it has."""
    whole = saved("JPEG", (2000, 1500), progressive=True)
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    assert load_picture(whole[:-2] + scan * 20 + whole[-2:], Transform(16)).width == 2000
    start = time.process_time()
    with pytest.raises(ValueError, match="picture has 2000 x 1500 px in 1001 scans or more, 1000 are allowed"):
        load_picture(whole[:-2] + scan * 5000 + whole[-2:], Transform(16))
    assert time.process_time() - start < 1


def test_what_pillow_decodes_in_python_may_have_fewer_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = b"P3 40 30 255 " + b"200 30 30 " * 1200
    assert load_picture(plain, Transform(16)).pixels[0, 0].tolist() == [200, 30, 30]
    monkeypatch.setattr(picture_formats, "MAX_SAMPLES_IN_PYTHON", 3599)
    with pytest.raises(
        ValueError, match="picture has 40 x 30 px of PPM in RGB, which is decoded slowly and may have 1,199"
    ):
        load_picture(plain, Transform(16))


JPEG_2000, PLAIN_J2K = saved("JPEG2000"), saved("JPEG2000", no_jp2=True)
GIF, PNG, JPEG = saved("GIF"), saved("PNG"), saved("JPEG")
FIRST_BLOCK = 13 + 3 * (2 << (GIF[10] & 7))
"""Behind the palette of the GIF."""


def box(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I4s", 8 + len(data), kind) + data


def of_tiny_parts(many: int) -> dict[str, bytes]:
    """Pictures of 64 x 48 px behind `many` parts of next to nothing."""
    free, at = box(b"free") * many, GIF[:FIRST_BLOCK]
    codestream = box(b"jxlc", saved("JXL")[saved("JXL").index(b"\xff\x0a") :])
    cod = PLAIN_J2K.index(b"\xff\x52")
    behind_type, in_header = JPEG_2000.index(b"jp2h") - 4, JPEG_2000.index(b"ihdr") - 4
    behind_header = JPEG_2000.index(b"jp2c") - 4
    return {
        "PNG, texts": with_chunks(PNG, png_chunk(b"tEXt", b"") * many),
        "PNG, pixels": with_chunks(PNG, png_chunk(b"IDAT", b"") * many, last=True),
        "JPEG, comments": with_segments(JPEG, jpeg_segment(0xFE, b"") * many),
        "JPEG, standalone markers": JPEG[:2] + b"\xff\xd0" * many + JPEG[2:],
        "JPEG, markers in the scan": JPEG[:-2] + b"\xff\x01" * many + JPEG[-2:],
        "GIF, extensions": at + b"\x21\xfe\0" * many + GIF[FIRST_BLOCK:],
        "GIF, bytes between": at + bytes(many) + GIF[FIRST_BLOCK:],
        "GIF, a comment": at + b"\x21\xfe" + b"\1a" * many + b"\0" + GIF[FIRST_BLOCK:],
        "PPM, a comment": b"P6 #" + b"a" * many + b"\n64 48 255\n" + bytes(64 * 48 * 3),
        "plain PPM, comments": b"P3 64 48 255\n" + b"#\n" * many + b"1 " * 64 * 48 * 3,
        "JPEG 2000, boxes": JPEG_2000[:behind_type] + free + JPEG_2000[behind_type:],
        "JPEG 2000, boxes in the header": b"".join(
            (
                JPEG_2000[: in_header - 8],
                box(b"jp2h", JPEG_2000[in_header:behind_header] + free),
                JPEG_2000[behind_header:],
            )
        ),
        "JPEG 2000, segments": PLAIN_J2K[:cod] + b"\xff\x55\0\4\0\0" * many + PLAIN_J2K[cod:],
        "JPEG XL, boxes": b"\0\0\0\x0cJXL \r\n\x87\n" + box(b"ftyp", b"jxl \0\0\0\0jxl ") + free + codestream,
        "ICNS, boxes": b"icns" + struct.pack(">I", 8 + 8 * many) + b"free\0\0\0\x08" * many,
        "PSD, resources": (
            b"8BPS"
            + struct.pack(">H6xHIIHH", 1, 1, 48, 64, 8, 1)
            + struct.pack(">II", 0, 12 * many)
            + b"8BIM\0\1\0\0\0\0\0\0" * many
            + bytes(6 + 64 * 48)
        ),
        "TIFF, offsets": tiff(np.zeros((48, 64), np.uint8), 1, more=[(324, 4, 2 * many, bytes(8 * many))]),
        "XPM, lines": b"/* XPM */\n" + b"\n" * many,
        "IM, lines": b"Image type: RGB\r\n" + b"a: b\r\n" * many,
    }


READABLE = [form for form in of_tiny_parts(0) if form.split(",")[0] not in ("ICNS", "XPM", "IM", "TIFF")]


@pytest.mark.parametrize("form", of_tiny_parts(0))
def test_a_picture_of_endless_tiny_parts_is_refused(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the true limits, a fiftieth of these here, it takes up to 3 s; without them, minutes."""
    assert (picture_parts.MAX_PARTS, picture_parts.MAX_READS, MAX_VALUES) == (200_000, 1_000_000, 400_000)
    monkeypatch.setattr(picture_parts, "MAX_PARTS", 4_000)
    monkeypatch.setattr(BoundedFile, "left", 20_000)
    with pytest.raises(ValueError, match=r"in more than [\d,]+ parts|values, more than [\d,]+"):
        load_picture(of_tiny_parts(400_000 if form == "TIFF, offsets" else 30_000)[form], Transform(16))


@pytest.mark.parametrize("form", READABLE)
def test_thousands_of_tiny_parts_cost_no_picture(form: str) -> None:
    assert load_picture(of_tiny_parts(5_000)[form], Transform(16)).width == 64


def test_a_large_jpeg_2000_is_decoded_to_half_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its decoder takes 23 bytes and 80 ns for a pixel."""
    gradient = Image.radial_gradient("L").resize((300, 200)).convert("RGB")
    stream = io.BytesIO()
    gradient.save(stream, "JPEG2000")
    whole = load_picture(stream.getvalue(), Transform(16))
    monkeypatch.setattr(jpeg_2000, "MAX_PIXELS", 59_999)
    half = load_picture(stream.getvalue(), Transform(16))
    assert (half.width, half.height, half.crop) == (whole.width, whole.height, whole.crop) == (300, 200, (50, 0, 200))
    difference = np.abs(half.pixels.astype(int) - whole.pixels)
    assert 0 < difference.max() <= 4
    for content, size in ((stream.getvalue(), 100), (saved("JPEG2000", (300, 200), num_resolutions=1), 16)):
        with pytest.raises(ValueError, match="300 x 200 px of JPEG 2000 that cannot be decoded to half its size"):
            load_picture(content, Transform(size))


def test_common_pictures_are_not_decoded_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_formats, "MAX_SAMPLES_IN_PYTHON", 0)
    for mode in ("RGB", "RGBA"):
        stream = io.BytesIO()
        Image.new(mode, (40, 30), (200, 30, 90, 255)[: len(mode)]).save(stream, "DDS")
        assert load_picture(stream.getvalue(), Transform(16)).pixels[9, 9].tolist() == [200, 30, 90]
    assert load_picture(saved("SGI", bpc=2), Transform(16)).pixels[0, 0].tolist() == [255, 0, 0]


def test_a_container_that_may_hold_any_format_is_no_way_around_the_refused_ones() -> None:
    """Pillow opens what is in IPTC with any of its plugins, that for EPS among them."""

    def field(record: int, number: int, data: bytes) -> bytes:
        return struct.pack(">BBBH", 0x1C, record, number, len(data)) + data

    postscript = (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/tmp/mars-was-here) (w) file closefile\nshowpage\n"
    )
    head = field(3, 60, b"\1\0") + field(3, 20, b"\x0a") + field(3, 30, b"\x0a") + field(3, 120, b"\5")
    with pytest.raises(ValueError, match="not a readable picture"):
        load_picture(head + field(8, 10, postscript), Transform(8))
    assert not Path("/tmp/mars-was-here").exists()


HEADERS = {
    "ff0acb060013080100e400671328": (64, 48, 1),
    "ff0aba121c00130801006c401864": (900, 600, 1),
    "ff0a308000c40013080100a84003": (513, 7, 1),
    "ff0ac8a7010013080100b840030c": (300, 250, 1),
    "ff0a41060013080100b400671328": (8, 8, 1),
    "ff0a38014f461800130801006c40": (9000, 40, 1),
}
"""What libjxl wrote for pictures of these sizes."""


@pytest.mark.parametrize("in_container", [False, True])
@pytest.mark.parametrize("written", HEADERS)
def test_the_size_of_a_jpeg_xl_is_known_before_it_is_decoded(written: str, in_container: bool) -> None:
    content = bytes.fromhex(written)
    if in_container:
        content = b"\x00\x00\x00\x0cJXL \r\n\x87\n" + struct.pack(">I4s", 20, b"ftyp") + bytes(12)
        content += struct.pack(">I4s", 0, b"jxlc") + bytes.fromhex(written)
    header = read_header(content)
    assert (header.width, header.height, header.orientation) == HEADERS[written]
    with pytest.raises(ValueError, match=f"picture has {header.width} x {header.height} px, more than max_pixels 9"):
        load_picture(content, Transform(16, limits=Limits(max_pixels=9)))


def test_the_orientation_of_a_jpeg_xl_is_in_its_header() -> None:
    bits = [1, *([0] * 5), 1, 0, 0, 0, 1, 1, 0, 1]  # 8 px high, as wide; not default, more fields, orientation 6
    packed = int("".join(map(str, reversed(bits))), 2).to_bytes(2, "little")
    header = read_header(b"\xff\x0a" + packed)
    assert (header.width, header.height, header.orientation) == (8, 8, 6)
    with pytest.raises(ValueError, match="a JPEG XL without a codestream"):
        read_header(b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(50))


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["AVIF", "DDS", "GIF", "HEIF", "ICNS", "ICO", "JPEG2000", "JXL", "MPO", "PCX", "PPM", "SGI", "TGA", "XBM"]
)
def test_damage_in_any_format_is_a_refusal_within_a_second(kind: str) -> None:
    chance = random.Random(kind)
    mode = "1" if kind == "XBM" else "RGB"
    stream = io.BytesIO()
    Image.radial_gradient("L").convert(mode).save(stream, kind)
    whole = stream.getvalue()
    refused = 0
    for number in range(40):
        damaged = bytearray(whole[: chance.randrange(len(whole))] if number % 2 else whole)
        for _ in range(0 if number % 2 else chance.choice((1, 10, 200))):
            damaged[chance.randrange(min(len(damaged), 400 if number % 4 else len(damaged)))] ^= 1 << chance.randrange(
                8
            )
        start = time.process_time()
        try:
            load_picture(bytes(damaged), Transform(16))
        except ValueError:
            refused += 1
        assert time.process_time() - start < 1, number
    assert refused > 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html><title>404</title>", "it is an HTML page, as a server sends it"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9", "it is a Git LFS pointer"),
        (b"", "it is an empty file"),
        (b"\x93NUMPY\x01", "it is a NumPy array"),
        (
            tiff(np.zeros((8, 8, 3), np.float32), 2),
            "it is a TIFF picture, damaged or of a kind that Pillow does not read",
        ),
        (b"\x01\x02\x03\x04nothing", "it begins with the bytes 01 02 03 04"),
    ],
)
def test_what_is_no_picture_is_named_the_same_in_every_run(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"not a readable picture: {message}"):
        load_picture(content, Transform(16))


def test_a_damaged_jpeg_xl_gets_a_message_of_one_line() -> None:
    content = bytearray(saved("JXL"))
    content[-9:] = bytes(9)
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z"):
        load_picture(bytes(content[:-3]), Transform(16))


def test_the_extra_that_reads_a_format_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = tuple(name for name in picture_formats.FORMATS if name not in ("HEIF", "JXL"))
    for module in (picture_formats, pictures):
        monkeypatch.setattr(module, "FORMATS", bare)
    heic = struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"heic", 0, b"mif1", b"heic") + bytes(100)
    with pytest.raises(ValueError, match="it is a HEIC picture.*; the project's extra `pictures` reads HEIC"):
        load_picture(heic, Transform(16))
    with pytest.raises(ValueError, match="it is a JPEG XL picture.*; the project's extra `pictures` reads JPEG XL"):
        load_picture(bytes.fromhex(next(iter(HEADERS))), Transform(16))
