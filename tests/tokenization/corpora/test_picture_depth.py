"""Every depth comes out as it was meant, or the picture is refused: never black or white without a word."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.picture_files import GRADIENT, SHORT, png, png_chunk, tiff
from tokenization.config.pictures import Limits, Transform
from tokenization.corpora.pictures import load_picture

SIDE = len(GRADIENT)
ROWS = np.tile(GRADIENT, (SIDE, 1))


def loaded(content: bytes) -> np.ndarray:
    return load_picture(content, Transform(SIDE)).pixels


def of_white(white: float, dtype: Any) -> np.ndarray:
    """The gradient from 0 to `white`, [SIDE, SIDE]."""
    return (ROWS * white + (0.5 if np.dtype(dtype).kind in "ui" else 0)).astype(dtype)


def saved(picture: Image.Image, kind: str, **how: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **how)
    return stream.getvalue()


def sgi(samples: np.ndarray) -> bytes:
    """An uncompressed SGI picture of 16-bit greys, whose rows go upwards."""
    header = struct.pack(">HBBHHHH", 474, 0, 2, 2, samples.shape[1], len(samples), 1)
    return header.ljust(512, b"\0") + samples[::-1].astype(">u2").tobytes()


GREYS = {
    "16-bit PNG": lambda: png(of_white(65_535, np.uint16), 16, 0),
    "16-bit TIFF": lambda: tiff(of_white(65_535, np.uint16), 1),
    "16-bit TIFF, big-endian": lambda: tiff(of_white(65_535, np.uint16), 1, ">"),
    "16-bit TIFF, white is 0": lambda: tiff(65_535 - of_white(65_535, np.uint16), 0),
    "16-bit TIFF, compressed": lambda: saved(
        Image.fromarray(of_white(65_535, np.uint16)), "TIFF", compression="tiff_lzw"
    ),
    "16-bit PGM": lambda: saved(Image.fromarray(of_white(65_535, np.uint16)), "PPM"),
    "16-bit JPEG 2000": lambda: saved(Image.fromarray(of_white(65_535, np.uint16)), "JPEG2000"),
    "12-bit TIFF": lambda: tiff(of_white(4095, np.uint16), 1, bits=12),
    "12-bit PGM": lambda: b"P5 64 64 4095\n" + of_white(4095, ">u2").tobytes(),
    "32-bit TIFF": lambda: tiff(of_white(2**32 - 1, np.uint32), 1),
    "32-bit TIFF, signed": lambda: tiff(of_white(2**31 - 1, np.int32), 1, ">"),
    "16-bit SGI": lambda: sgi(of_white(65_535, np.uint16)),
    "32-bit TIFF of 16 bits": lambda: tiff(of_white(65_535, np.uint32), 1),
    "32-bit TIFF of 8 bits": lambda: tiff(of_white(255, np.int32), 1),
    "float TIFF to 1": lambda: tiff(of_white(1, np.float32), 1),
    "float TIFF to 255": lambda: tiff(of_white(255, np.float32), 1),
    "float TIFF to 65,535": lambda: tiff(of_white(65_535, np.float32), 1, ">"),
    "float TIFF, white is 0": lambda: tiff(1 - of_white(1, np.float32), 0),
    "PFM to 1": lambda: b"Pf\n64 64\n-1.0\n" + of_white(1, "<f4").tobytes(),
    "8-bit TIFF, white is 0": lambda: tiff(255 - of_white(255, np.uint8), 0),
    "16-bit grey and alpha PNG": lambda: png(
        np.stack([of_white(65_535, np.uint16), np.full((SIDE, SIDE), 65_535, np.uint16)], -1), 16, 4
    ),
    "8-bit palette TIFF whose palette has 8 bits": lambda: tiff(
        of_white(255, np.uint8), 3, more=[(320, SHORT, 768, struct.pack("<768H", *[*range(256)] * 3))]
    ),
    "16-bit colour PNG": lambda: png(np.stack([of_white(65_535, np.uint16)] * 3, -1), 16, 2),
    "16-bit colour TIFF": lambda: tiff(np.stack([of_white(65_535, np.uint16)] * 3, -1), 2),
    "16-bit colour TIFF, big-endian": lambda: tiff(np.stack([of_white(65_535, np.uint16)] * 3, -1), 2, ">"),
    "16-bit PPM": lambda: b"P6 64 64 65535\n" + np.stack([of_white(65_535, np.uint16)] * 3, -1).astype(">u2").tobytes(),
    "16-bit CMYK TIFF": lambda: tiff(
        np.stack([65_535 - of_white(65_535, np.uint16)] * 3 + [0 * of_white(1, np.uint16)], -1), 5
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GREYS)
def test_a_gradient_of_any_depth_goes_from_black_to_white(name: str) -> None:
    pixels = loaded(GREYS[name]())
    expected = np.rint(GRADIENT * 255)[None, :, None]
    assert np.abs(pixels.astype(float) - expected).max() <= 1.01, pixels[0, ::9, 0]


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("transparent", [None, 0, 1])
def test_a_grey_png_of_few_bits_has_all_its_steps_and_its_transparent_one_is_white(
    depth: int, transparent: int | None
) -> None:
    steps = 2**depth
    samples = np.repeat(np.arange(SIDE) * steps // SIDE, 1)[None].repeat(SIDE, 0)
    chunks = [] if transparent is None else [png_chunk(b"tRNS", struct.pack(">H", transparent))]
    expected = samples * 255 // (steps - 1)
    expected[samples == transparent] = 255
    assert np.array_equal(loaded(png(samples, depth, 0, *chunks))[..., 0], expected)


def test_a_transparent_colour_is_white_in_any_depth() -> None:
    half = np.arange(SIDE)[None].repeat(SIDE, 0) < SIDE // 2
    for depth, most in ((8, 255), (16, 65_535)):
        grey = np.where(half, most // 3, most)
        assert (loaded(png(grey, depth, 0, png_chunk(b"tRNS", struct.pack(">H", most // 3)))) == 255).all()
        assert loaded(png(grey, depth, 0, png_chunk(b"tRNS", struct.pack(">H", 7))))[0, 0].tolist() == [85] * 3
        colour = np.stack([grey, grey // 2, grey], -1)
        marked = png_chunk(b"tRNS", struct.pack(">HHH", most // 3, most // 6, most // 3))
        pixels = loaded(png(colour, depth, 2, marked))
        assert (pixels[:, : SIDE // 2] == 255).all() and pixels[0, -1].tolist() == [255, 127, 255]


DARK = {
    "12 bits in a 16-bit SGI": lambda: sgi(of_white(4095, np.uint16)),
    "8 bits in a 16-bit PNG": lambda: png(of_white(255, np.uint16), 16, 0),
    "12 bits in a 16-bit PNG": lambda: png(of_white(4095, np.uint16), 16, 0),
    "12 bits in a 16-bit TIFF": lambda: tiff(of_white(4095, np.uint16), 1),
    "8 bits in a 16-bit colour PNG": lambda: png(np.stack([of_white(255, np.uint16)] * 3, -1), 16, 2),
    "12 bits in a 16-bit colour TIFF": lambda: tiff(np.stack([of_white(4095, np.uint16)] * 3, -1), 2, ">"),
    "8 bits in a 16-bit colour TIFF": lambda: tiff(np.stack([of_white(255, np.uint16)] * 3, -1), 2),
    "8 bits in a 16-bit PPM": lambda: (
        b"P6 64 64 65535\n" + np.stack([of_white(255, np.uint16)] * 3, -1).astype(">u2").tobytes()
    ),
    "10 bits in a 32-bit TIFF": lambda: tiff(of_white(1023, np.int32), 1),
    "24 bits in a 32-bit TIFF": lambda: tiff(of_white(2**24, np.uint32), 1),
    "floats to 2": lambda: tiff(of_white(2, np.float32), 1),
}


@pytest.mark.parametrize("name", DARK)
def test_samples_that_use_little_of_their_range_are_refused_as_too_dark(name: str) -> None:
    with pytest.raises(ValueError, match=r"the brightest sample of the picture is .*, and white is [\d,]+: scale it"):
        loaded(DARK[name]())


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (of_white(1, np.float32) - 0.5, r"negative samples, down to -0.5"),
        (of_white(255, np.int32) - 9, r"negative samples, down to -9"),
        (of_white(1e9, np.float32), r"samples up to 1e\+09, more than any"),
        (np.where(ROWS < 1, 0, np.nan).astype(np.float32), "samples that are not finite"),
        (np.full((SIDE, SIDE), np.inf, np.float32), "samples that are not finite"),
    ],
    ids=["negative floats", "negative integers", "enormous", "not a number", "infinite"],
)
def test_samples_without_a_known_black_or_white_are_refused(samples: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loaded(tiff(samples, 1))


def test_signed_samples_of_16_bits_count_as_unsigned_ones() -> None:
    assert loaded(tiff(of_white(32_767, np.int16), 1))[0, -1].tolist() == [127] * 3


@pytest.mark.parametrize("color", [0, 65_535])
def test_plain_black_and_plain_white_stay_what_they_are(color: int) -> None:
    plain = np.full((SIDE, SIDE), color, np.uint16)
    for content in (png(plain, 16, 0), tiff(plain, 1), png(np.stack([plain] * 3, -1), 16, 2)):
        assert (loaded(content) == color // 257).all()


@pytest.mark.parametrize("kind", ["BMP", "TGA", "ICO", "DDS", "SGI"])
def test_a_fourth_byte_that_nobody_set_hides_no_picture(kind: str) -> None:
    red = Image.new("RGBA", (64, 64), (200, 30, 30, 0))
    how = {"bitmap_format": "bmp"} if kind == "ICO" else {}
    assert loaded(saved(red, kind, **how))[9, 9].tolist() == [200, 30, 30]
    if kind != "BMP":
        red.putpixel((0, 0), (0, 0, 0, 255))
        assert loaded(saved(red, kind, **how))[9, 9].tolist() == [255] * 3, "some alpha is set, so it counts"


def icon(*pictures: tuple[bytes, int]) -> bytes:
    """An icon of pictures and the sides that it says of them."""
    content, at = struct.pack("<HHH", 0, 1, len(pictures)), 6 + 16 * len(pictures)
    for picture, side in pictures:
        content += struct.pack("<BBBBHHII", side, side, 0, 0, 1, 32, len(picture), at)
        at += len(picture)
    return content + b"".join(picture for picture, _ in pictures)


def test_a_png_in_an_icon_is_what_it_is_by_itself() -> None:
    steps = np.tile(np.arange(SIDE) * 16 // SIDE, (SIDE, 1))
    forms = [
        png(steps, 4, 0, png_chunk(b"tRNS", struct.pack(">H", 5))),
        png(steps, 4, 3, png_chunk(b"PLTE", bytes(range(48))), png_chunk(b"tRNS", bytes(range(16)))),
        png(np.stack([of_white(65_535, np.uint16)] * 3, -1), 16, 2, png_chunk(b"tRNS", bytes(6))),
        png(of_white(65_535, np.uint16), 16, 0),
    ]
    small = png(np.zeros((8, 8), np.uint8), 8, 0)
    for form in forms:
        assert np.array_equal(loaded(icon((small, 8), (form, 64), (small, 16))), loaded(form))
        assert (loaded(form) == 255).any()
    with pytest.raises(ValueError, match="the brightest sample of the picture is below 4,096"):
        loaded(icon((png(np.stack([of_white(4095, np.uint16)] * 3, -1), 16, 2), 64)))
    for damaged in (icon(), icon((b"", 64)), icon((forms[0], 64))[:30], b"\0\0\1\0\xff\xff"):
        with pytest.raises(ValueError, match="not a readable picture|invalid|cannot"):
            loaded(damaged)


def targa(kind: int, depth: int, pixel: bytes, palette: bytes = b"", palette_bits: int = 0) -> bytes:
    """A TGA of 8 x 8 equal pixels; a palette has one entry."""
    header = struct.pack("<BBBHHBHHHHBB", 0, bool(palette), kind, 0, 1, palette_bits, 0, 0, 8, 8, depth, 0)
    return header + palette + pixel * 64


@pytest.mark.parametrize(
    ("unset", "set_", "color"),
    [
        (targa(3, 16, b"\x78\0"), targa(3, 16, b"\x78\xff"), 120),
        (targa(1, 8, b"\0", b"\x78\x78\x78\0", 32), targa(1, 8, b"\0", b"\x78\x78\x78\xff", 32), 120),
        (targa(1, 8, b"\0", b"\xef\x3d", 16), targa(1, 8, b"\0", b"\xef\xbd", 16), 123),
        (targa(2, 16, b"\xef\x3d"), targa(2, 16, b"\xef\xbd"), 123),
        (targa(2, 32, b"\x78\x78\x78\0"), targa(2, 32, b"\x78\x78\x78\xff"), 120),
    ],
    ids=["grey", "palette of 32 bits", "palette of 16 bits", "colour of 16 bits", "colour of 32 bits"],
)
def test_unset_alpha_of_a_tga_hides_no_picture_whatever_its_pixels_are(unset: bytes, set_: bytes, color: int) -> None:
    for content in (unset, set_):
        assert (loaded(content) == color).all()


def test_unset_alpha_of_a_grey_or_palette_dds_hides_no_picture() -> None:
    def texture(flags: int, bits: int, body: bytes) -> bytes:
        head = struct.pack("<7I44x", 124, 0x1007, 8, 8, 0, 0, 0) + struct.pack("<8I", 32, flags, 0, bits, 0, 0, 0, 0)
        return b"DDS " + head.ljust(124, b"\0") + body

    assert (loaded(texture(0x20001, 16, b"\x78\0" * 64)) == 120).all()
    assert (loaded(texture(0x20, 8, b"\x78\x78\x78\0" * 256 + bytes(64))) == 120).all()


FEW_BITS = {
    1: "000101ff52000c00000001000004040001ff5c00044008ff90000a0000000000140001ff93d20011504277ffd9",
    2: "010101ff52000c00000001000004040001ff5c00044010ff90000a0000000000170001ff93dd1c114f8a29b453a9ffd9",
    4: "030101ff52000c00000001000004040001ff5c00044020ff90000a0000000000200001ff93df20f0116aa1f0207906f900434f6ddf95f3"
    "ffd9",
}
"""What OpenJPEG wrote of a ramp of 8 x 8 px, behind the size and the number of components."""


@pytest.mark.parametrize("bits", FEW_BITS)
def test_a_jpeg_2000_of_few_bits_reaches_white(bits: int) -> None:
    """Pillow takes 1 of 1 bit for 128."""
    size = "ff4fff51002900000000000800000008" + "00" * 8 + "0000000800000008" + "00" * 8 + "0001"
    pixels = load_picture(bytes.fromhex(size + FEW_BITS[bits]), Transform(8)).pixels
    assert np.array_equal(pixels[0, :, 0], np.arange(8) * 2**bits // 8 * 255 // (2**bits - 1))


def test_premultiplied_alpha_lies_over_white_too() -> None:
    grey = np.stack([np.full((SIDE, SIDE), 60, np.uint8), np.full((SIDE, SIDE), 120, np.uint8)], -1)
    associated = [(338, SHORT, 1, struct.pack("<H", 1))]
    assert abs(int(loaded(tiff(grey, 1, more=associated))[9, 9, 0]) - (60 + 135)) <= 1


def test_an_x_pixmap_of_many_colours_is_read() -> None:
    """Pillow's decoder gets the colours as a dict, of whatever number."""
    colours = [f'"{number:02x} c #{number:02x}0000"' for number in range(256)]
    rows = ['"' + "".join(f"{number:02x}" for number in range(256)) + '"'] * 4
    lines = ['"256 4 256 2"', *colours, *rows]
    content = "/* XPM */\nstatic char *ramp[] = {\n" + ",\n".join(lines) + "\n};\n"
    pixels = load_picture(content.encode(), Transform(4, limits=Limits(max_aspect_ratio=100))).pixels
    assert pixels[..., 0].tolist() == [[126, 127, 128, 129]] * 4 and not pixels[..., 1:].any()
