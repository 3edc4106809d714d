"""Metadata never costs a picture, and never its orientation."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.picture_files import (
    ASCII,
    LONG,
    ORIENTATION,
    RATIONAL,
    SHORT,
    directory,
    exif,
    jpeg_segment,
    png_chunk,
    saved,
    tiff,
    with_chunks,
    with_segments,
)
from tokenization.config.pictures import Transform
from tokenization.corpora.picture_metadata import TURNS, orientation_of, strip_metadata
from tokenization.corpora.pictures import Picture, load_picture


def loaded(content: bytes) -> Picture:
    return load_picture(content, Transform(32))


def rational(over: int, under: int) -> bytes:
    return struct.pack("<ii", over, under)


ODD_TAGS = {
    "-1 as a denominator": (0x9204, 10, 1, rational(-1, 0)),
    "-1/0 in a resolution": (0x011A, RATIONAL, 1, rational(-1, 0)),
    "two values where one is due": (0x011A, RATIONAL, 2, rational(72, 1) * 2),
    "a rational where a number is due": (0x0128, RATIONAL, 1, rational(2, 1)),
    "a rational where a text is due": (0x0131, RATIONAL, 2, rational(1, 1) * 2),
    "no value": (0x010F, ASCII, 0, b""),
    "type 0": (0x010E, 0, 1, b"abcd"),
    "type 13": (0x014A, 13, 1, b"\0\0\0\1"),
    "an unknown type": (0x010E, 99, 1, b"abcd"),
    "more values than the file has bytes": (0x010E, ASCII, 0x7FFFFFFF, b"abcd"),
    "a directory outside": (0x8769, LONG, 1, b"\xff\xff\0\0"),
    "a directory that is itself": (0x8769, LONG, 1, b"\x08\0\0\0"),
    "GPS that is no directory": (0x8825, SHORT, 2, b"\1\0\2\0"),
    "not a number": (0x011A, 12, 1, struct.pack("<d", float("nan"))),
    "bytes that are no text": (0x9286, 7, 8, b"\xff\xfe\x00\xd8\x00\xd8ab"),
    "a maker's note of nothing": (0x927C, 7, 20, bytes(20)),
}


def jpeg(data: bytes) -> bytes:
    return with_segments(saved("JPEG"), jpeg_segment(0xE1, b"Exif\0\0" + data))


def png(data: bytes) -> bytes:
    return with_chunks(saved("PNG"), png_chunk(b"eXIf", data))


def webp(data: bytes) -> bytes:
    return saved("WEBP", exif=data)


@pytest.mark.parametrize("write", [jpeg, png, webp])
@pytest.mark.parametrize("tag", ODD_TAGS.values(), ids=ODD_TAGS)
def test_a_picture_with_an_odd_tag_is_read_and_turned(write: Callable[[bytes], bytes], tag: tuple) -> None:
    picture = loaded(write(exif(tag)))
    assert (picture.width, picture.height) == (48, 64)


@pytest.mark.parametrize("tag", ODD_TAGS.values(), ids=ODD_TAGS)
def test_a_tiff_with_an_odd_tag_is_read_and_turned(tag: tuple) -> None:
    pixels = np.zeros((48, 64), np.uint8)
    pixels[:24, :32] = 200
    picture = loaded(tiff(pixels, 1, more=[(ORIENTATION, SHORT, 1, struct.pack("<H", 6)), tag]))
    assert (picture.width, picture.height) == (48, 64)
    assert picture.pixels[4, -4].tolist() == [200] * 3, "the left upper quarter has come to the right"


ORIENTATIONS = {
    "SHORT": (SHORT, 1, struct.pack("<H", 6)),
    "LONG": (LONG, 1, struct.pack("<I", 6)),
    "BYTE": (1, 1, b"\6"),
    "a digit": (ASCII, 2, b"6\0"),
    "a rational": (RATIONAL, 1, rational(6, 1)),
    "a float": (11, 1, struct.pack("<f", 6.0)),
    "two values": (SHORT, 2, struct.pack("<HH", 6, 1)),
    "three values": (SHORT, 3, struct.pack("<HHH", 6, 1, 1)),
}


@pytest.mark.parametrize("value", ORIENTATIONS.values(), ids=ORIENTATIONS)
@pytest.mark.parametrize("write", [jpeg, png, webp])
def test_an_orientation_of_any_type_is_applied(write: Callable[[bytes], bytes], value: tuple) -> None:
    picture = loaded(write(directory([(ORIENTATION, *value)])))
    assert (picture.width, picture.height) == (48, 64)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"garbage",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08\xff\xff",
        exif()[:15],
        exif(orientation=9),
    ],
    ids=["empty", "a byte", "garbage", "a header", "outside", "endless", "cut off", "9"],
)
@pytest.mark.parametrize("write", [jpeg, png, webp])
def test_damaged_exif_leaves_the_picture_as_it_is_stored(write: Callable[[bytes], bytes], data: bytes) -> None:
    assert loaded(write(data)).width == 64


def test_xmp_says_it_where_exif_does_not() -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    in_jpeg = jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)
    in_png = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    compressed = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp))
    for content in (
        with_segments(saved("JPEG"), in_jpeg),
        with_chunks(saved("PNG"), in_png),
        with_chunks(saved("PNG"), compressed, last=True),
        tiff(np.zeros((48, 64), np.uint8), 1, more=[(700, 1, len(xmp), xmp)]),
    ):
        assert loaded(content).width == 48
    upright = jpeg_segment(0xE1, b"Exif\0\0" + exif(orientation=1))
    assert loaded(with_segments(saved("JPEG"), in_jpeg, upright)).width == 64


def test_exif_in_a_text_of_a_png_is_read() -> None:
    """As ImageMagick writes it."""
    text = b"\nexif\n%8d\n" % len(exif()) + exif().hex().encode() + b"\n"
    for kind, value in ((b"tEXt", b"\0" + text), (b"zTXt", b"\0\0" + zlib.compress(text))):
        content = with_chunks(saved("PNG"), png_chunk(kind, b"Raw profile type exif" + value))
        assert loaded(content).width == 48
    assert loaded(with_chunks(saved("PNG"), png_chunk(b"tEXt", b"Raw profile type exif\0no digits"))).width == 64


def test_megabytes_of_text_and_profiles_cost_nothing() -> None:
    megabytes = zlib.compress(b"workflow " * 200_000)
    chunks = {
        "zTXt": png_chunk(b"zTXt", b"workflow\0\0" + megabytes),
        "iTXt": png_chunk(b"iTXt", b"workflow\0\1\0\0\0" + megabytes),
        "tEXt": png_chunk(b"tEXt", b"workflow\0" + b"w" * 2_000_000),
        "iCCP": png_chunk(b"iCCP", b"big\0\0" + megabytes),
        "a profile that is none": png_chunk(b"iCCP", b"big\0\7broken"),
        "a wrong checksum": png_chunk(b"tEXt", b"a\0b")[:-1] + b"?",
        "short gAMA": png_chunk(b"gAMA", b"\0"),
        "APNG without frames": png_chunk(b"acTL", bytes(8)),
        "unknown": png_chunk(b"prVt", b"x" * 100),
    }
    plain = loaded(saved("PNG")).pixels
    for name, chunk in chunks.items():
        for last in (False, True):
            assert np.array_equal(loaded(with_chunks(saved("PNG"), chunk, last=last)).pixels, plain), name
    together = with_chunks(saved("PNG"), *[chunks["zTXt"]] * 80)
    assert np.array_equal(loaded(together).pixels, plain), "140 MB of text"


def test_segments_of_a_jpeg_that_are_damaged_cost_nothing() -> None:
    plain = loaded(saved("JPEG")).pixels
    for marker, data in (
        (0xE1, b"Exif\0"),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0<broken"),
        (0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff"),
        (0xE2, b"MPF\0"),
        (0xE2, b"ICC_PROFILE\0"),
        (0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\xff\xff\xff\xff"),
        (0xFE, b"a comment"),
    ):
        content = with_segments(saved("JPEG"), jpeg_segment(marker, data))
        assert np.array_equal(loaded(content).pixels, plain), data
        after_junk = jpeg_segment(0xFE, b"") + b"\0junk\xff" + jpeg_segment(marker, data)
        assert np.array_equal(loaded(with_segments(saved("JPEG"), after_junk)).pixels, plain), data
    many = with_segments(saved("JPEG"), *[jpeg_segment(0xE1, b"Exif\0\0" + bytes(60_000))] * 300)
    assert np.array_equal(loaded(many).pixels, plain), "18 MB"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_what_is_cut_out_changes_no_pixel_and_what_is_cut_off_no_byte(kind: str) -> None:
    how: dict[str, Any] = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    content = saved(kind, exif=b"Exif\0\0" + exif(), **how)
    stripped = strip_metadata(content)
    assert orientation_of(stripped.exif, stripped.xmp) == 6
    again = strip_metadata(stripped.content)
    assert again.content == stripped.content and orientation_of(again.exif, again.xmp) == 1
    with Image.open(io.BytesIO(stripped.content)) as bare, Image.open(io.BytesIO(content)) as whole:
        pixels = np.asarray(whole.transpose(Image.Transpose.ROTATE_90) if kind == "TIFF" else whole)
        assert np.array_equal(np.asarray(bare), pixels)
    for end in range(2, len(content), 7):
        cut = strip_metadata(content[:end]).content
        assert len(cut) <= end


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
@pytest.mark.parametrize("damage", [rational(-1, 0), b"", b"garbage!"], ids=["odd tag", "no directory", "garbage"])
def test_damaged_exif_of_an_heic_or_an_avif_costs_nothing(kind: str, damage: bytes) -> None:
    """Pillow and its plugin write EXIF anew while they open the file."""
    odd = rational(123_457, 7)
    whole = saved(kind, exif=exif((0x9204, 10, 1, odd)))
    assert odd in whole and (loaded(whole).width, loaded(whole).height) == (48, 64)
    damaged = whole.replace(odd, damage) if len(damage) == len(odd) else whole.replace(b"II*\0", b"xxxx")
    assert damaged != whole
    assert np.array_equal(loaded(damaged).pixels, loaded(whole).pixels)


@pytest.mark.parametrize("orientation", [1, 2, 3, 5, 6, 8])
@pytest.mark.parametrize("kind", ["HEIF", "AVIF", "JXL"])
def test_formats_of_plugins_are_turned_once(kind: str, orientation: int) -> None:
    """Some plugins turn the pixels by themselves."""
    stream = io.BytesIO()
    upright = Image.new("RGB", (96, 64), "white")
    upright.paste("red", (0, 0, 48, 32))
    turn = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}.get(orientation, TURNS.get(orientation))
    stored = upright if turn is None else upright.transpose(turn)
    stored.save(stream, kind, exif=exif(orientation=orientation))
    picture = loaded(stream.getvalue())
    assert (picture.width, picture.height) == (96, 64)
    red = picture.pixels[..., 1] < 128
    assert red[:14, 9:14].all() and not red[18:].any() and not red[:, 18:].any()


def test_a_jpeg_xl_that_was_made_of_a_jpeg_is_turned_once(tmp_path: Path) -> None:
    """Its decoder gives the JPEG back, as it was stored."""
    path = tmp_path / "a.jpg"
    for orientation in (1, 6, 3):
        path.write_bytes(jpeg(exif(orientation=orientation)))
        stream, expected = io.BytesIO(), loaded(path.read_bytes())
        with Image.open(path) as image:
            image.save(stream, "JXL", lossless_jpeg=True)
        assert np.array_equal(loaded(stream.getvalue()).pixels, expected.pixels)
        assert loaded(stream.getvalue()).width == expected.width


def test_stale_xmp_does_not_turn_an_avif() -> None:
    """In such files, properties alone say how a picture is turned; some tools leave the XMP as it was."""
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    assert loaded(saved("AVIF", xmp=xmp)).width == 64
    assert loaded(saved("AVIF", xmp=xmp, exif=exif(orientation=6))).width == 48


@pytest.mark.parametrize("kind", [1, 3])
def test_a_thumbnail_in_front_of_a_raw_picture_is_not_taken_for_it(kind: int) -> None:
    """As in the raw files of cameras, which are TIFFs: pages may be marked as smaller copies."""
    grey = np.full((8, 8), 90, np.uint8)
    smaller, larger = (254, LONG, 1, struct.pack("<I", kind)), (330, LONG, 1, struct.pack("<I", 8))
    with pytest.raises(ValueError, match="a TIFF whose first picture is a smaller copy of another, as in a camera's"):
        loaded(tiff(grey, 1, more=[smaller, larger]))
    assert loaded(tiff(grey, 1, more=[smaller])).pixels[0, 0, 0] == 90, "there is no other one"
    assert loaded(tiff(grey, 1, more=[larger])).pixels[0, 0, 0] == 90, "the larger copies of a pyramid come first"
