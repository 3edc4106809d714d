"""Colours and alpha of more than 8 bits: dark and light ones are meant, or the picture is refused."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.picture_files import GRADIENT, png, png_chunk, tiff
from tokenization.config.pictures import Transform
from tokenization.corpora.jpeg_xl import read_header
from tokenization.corpora.pictures import load_picture

SIDE = len(GRADIENT)
RAMP = np.tile(GRADIENT, (SIDE, 1))
GREY_ALPHA, RGB, RGB_ALPHA = 4, 2, 6
WHITE = 65_535


def loaded(content: bytes) -> np.ndarray:
    return load_picture(content, Transform(SIDE)).pixels


def colours(*shares: Any) -> np.ndarray:
    """Samples of 16 bits of the bands' shares of white, [SIDE, SIDE, bands]."""
    return np.stack([np.broadcast_to(share, (SIDE, SIDE)) * WHITE + 0.5 for share in shares], -1).astype(np.uint16)


def plain_ppm(samples: np.ndarray, most: int = WHITE) -> bytes:
    return b"P3 %d %d %d\n" % (SIDE, SIDE, most) + " ".join(map(str, samples.ravel())).encode()


def raw_ppm(samples: np.ndarray, most: int = WHITE) -> bytes:
    return b"P6 %d %d %d\n" % (SIDE, SIDE, most) + samples.astype(">u2").tobytes()


def with_alpha(samples: np.ndarray, most: int = WHITE) -> np.ndarray:
    """The samples, and alpha of 0 in a corner and `most` elsewhere."""
    alpha = np.full((SIDE, SIDE, 1), most, np.uint16)
    alpha[:9, :9] = 0
    return np.concatenate([samples, alpha], -1)


def saved(picture: Image.Image, kind: str, **how: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **how)
    return stream.getvalue()


FORMS = {
    "PNG": lambda samples: png(samples, 16, RGB),
    "PNG with alpha": lambda samples: png(with_alpha(samples), 16, RGB_ALPHA),
    "grey PNG with alpha": lambda samples: png(with_alpha(samples[..., :1]), 16, GREY_ALPHA),
    "TIFF": lambda samples: tiff(samples, 2),
    "TIFF, big-endian, in planes": lambda samples: tiff(samples, 2, ">", planar=2),
    "TIFF with alpha": lambda samples: tiff(with_alpha(samples), 2, more=[(338, 3, 1, b"\2\0")]),
    "P3": plain_ppm,
    "P6": raw_ppm,
}
WITH_LOW_BYTES = [form for form in FORMS if form not in ("P3", "TIFF, big-endian, in planes")]
"""Those of which Pillow gives more than the high byte."""
FEWER_BITS = {"12 bits": 4095, "10 bits": 1023, "8 bits": 255}


@pytest.mark.parametrize("bits", FEWER_BITS)
@pytest.mark.parametrize("form", FORMS)
def test_fewer_bits_than_the_file_has_are_refused_in_every_form(form: str, bits: str) -> None:
    most = FEWER_BITS[bits]
    samples = np.stack([(RAMP * most).astype(np.uint16)] * 3, -1)
    with pytest.raises(ValueError, match=r"the brightest sample of the picture is below [\d,]+, and white is 65,535"):
        loaded(FORMS[form](samples))


@pytest.mark.parametrize("form", WITH_LOW_BYTES)
def test_8_bits_that_were_scaled_to_16_may_be_dark(form: str) -> None:
    """Line art in nearly black ink, or a picture of the night."""
    dark = (RAMP * 9.99).astype(np.uint16) * 257
    pixels = loaded(FORMS[form](np.stack([dark] * 3, -1)))
    assert np.array_equal(pixels[-1, :, 0], dark[-1] // 257)
    if "alpha" in form:
        assert (pixels[:9, :9] == 255).all()


@pytest.mark.parametrize("form", WITH_LOW_BYTES)
def test_plain_black_is_black(form: str) -> None:
    assert (loaded(FORMS[form](colours(0, 0, 0)))[-1] == 0).all()


def test_colours_under_transparent_pixels_make_no_dark_picture_bright() -> None:
    samples = with_alpha(np.stack([(RAMP * 4095).astype(np.uint16)] * 3, -1))
    samples[:9, :9, :3] = WHITE
    with pytest.raises(ValueError, match="the brightest sample of the picture is below 4,096"):
        loaded(png(samples, 16, RGB_ALPHA))


def test_a_bright_transparent_colour_makes_no_dark_picture_bright() -> None:
    dark = (RAMP * 4095).astype(np.uint16)
    dark[:9, :9] = WHITE
    for samples, color, mark in (
        (dark, 0, struct.pack(">H", WHITE)),
        (np.stack([dark] * 3, -1), RGB, struct.pack(">HHH", *[WHITE] * 3)),
    ):
        with pytest.raises(ValueError, match=r"the brightest sample of the picture is (4095|below 4,096)"):
            loaded(png(samples, 16, color, png_chunk(b"tRNS", mark)))
        assert (loaded(png(0 * samples + WHITE, 16, color, png_chunk(b"tRNS", mark))) == 255).all()


def test_alpha_of_fewer_bits_is_refused_as_it_would_hide_the_picture() -> None:
    with pytest.raises(ValueError, match="the largest sample of alpha is below 4,096, and opaque is 65,535"):
        loaded(png(with_alpha(colours(RAMP, RAMP, RAMP), 4095), 16, RGB_ALPHA))


def test_a_light_page_in_16_bit_ink_is_light() -> None:
    ink = colours(0.02, RAMP * 0.04, 0.01, 0)
    pixels = loaded(tiff(ink, 5))
    assert pixels.min() >= 244 and pixels[0, 0].tolist() == pytest.approx([250, 255, 252], abs=1)
    assert (loaded(tiff(colours(0, 0, 0, 0), 5)) == 255).all()
    with pytest.raises(ValueError, match="the largest sample of the picture is below 256, white is 0, and black is"):
        loaded(tiff((ink // 256).astype(np.uint16), 5))


def test_a_nearly_white_page_whose_white_is_0_is_not_called_dark() -> None:
    light = (RAMP * 15).astype(np.uint16)
    assert np.array_equal(loaded(tiff(light * 257, 0))[0, :, 0], 255 - light[0])
    with pytest.raises(ValueError, match="the largest sample of the picture is 4095, white is 0, and black is 65,535"):
        loaded(tiff((RAMP * 4095).astype(np.uint16), 0))


def test_a_transparent_colour_of_16_bits_is_compared_with_all_of_them() -> None:
    samples = np.full((SIDE, SIDE, 3), 0x8055, np.uint16)
    samples[:, SIDE // 2 :] = 0x8056
    pixels = loaded(png(samples, 16, RGB, png_chunk(b"tRNS", struct.pack(">HHH", *[0x8055] * 3))))
    assert (pixels[:, : SIDE // 2 - 1] == 255).all() and (pixels[:, SIDE // 2 + 1 :] == 0x80).all()


@pytest.mark.parametrize("most", [4095, 1023, 300])
@pytest.mark.parametrize("write", [plain_ppm, raw_ppm])
def test_a_ppm_says_its_own_white(write: Any, most: int) -> None:
    samples = np.stack([(RAMP * most).astype(np.uint16)] * 3, -1)
    assert np.abs(loaded(write(samples, most))[0, :, 0] - GRADIENT * 255).max() <= 1.1
    with pytest.raises(ValueError, match=f"and white is {most:,}"):
        loaded(write(samples // 20, most))


def test_floats_may_pass_black_and_white_a_little() -> None:
    """Filters and lossy coders leave such ones."""
    for white in (1, 255):
        samples = (RAMP * 1.15 - 0.05).astype(np.float32) * white
        expected = np.rint((GRADIENT * 1.15 - 0.05).clip(0, 1) * 255)
        pixels = loaded(tiff(samples, 1))[0, :, 0].astype(int)
        assert np.abs(pixels - expected).max() <= 1
        assert np.abs(loaded(tiff(white - samples, 0))[0, :, 0] - expected).max() <= 1
    with pytest.raises(ValueError, match="the brightest sample of the picture is 1.2, and white is 255"):
        loaded(tiff((RAMP * 1.2).astype(np.float32), 1))
    with pytest.raises(ValueError, match="negative samples, down to -0.2"):
        loaded(tiff((RAMP * 1.2 - 0.2).astype(np.float32), 1))


def test_a_float_jpeg_xl_may_overshoot() -> None:
    samples = (RAMP * 1.06 - 0.03).astype(np.float32)
    pixels = loaded(saved(Image.fromarray(samples), "JXL", lossless=True))
    assert np.abs(pixels[0, :, 0] - (samples[0].clip(0, 1) * 255)).max() <= 1


J2K_HEADER = (
    "ff4fff51002f0000000000080000000800000000000000000000000800000008000000000000000000030f01010f01010f0101ff52000c"
    "00000001010004040001ff5c00044080ff90000a00000000"
)
WHITE_BELOW = bytes.fromhex(
    J2K_HEADER
    + "00580001ff93cffc31103bb90ed3d3562ef8400184798a711f729a23ee53447dca688fb94d1212fe4a26000000c237a7e8fd14"
    "e11f729a23ee53447dca688fb94d11f729a23ee53447dca688ff7f8080ffd9"
)
"""What OpenJPEG wrote: 8 x 8 px, 16 bits, three colours; the upper half is 20,000, the lower one 65,535."""
LIGHTER_BELOW = bytes.fromhex(
    J2K_HEADER
    + "00400001ff93c7fe0c581150531f1e86f2365d201847d195800000030908b3081847b4a81212f8c1c0000184846a850c23da54"
    "09097f8080ffd9"
)
"""The same, the lower half of 30,000."""
GREY_AND_ALPHA_JXL = bytes.fromhex(
    "0000000c4a584c200d0a870a00000014667479706a786c20000000006a786c20000000096a786c6c0a0000003d6a786c63ff0a41f023f801"
    "285a040810100094004b188b15420ac4ddbc00e85de00080015020cefb8e41c116578803000000c02a0601000000"
)
"""What libjxl wrote: 8 x 8 px, 16 bits, opaque."""


def test_a_deep_jpeg_2000_in_colour_is_refused_where_its_white_may_have_become_black() -> None:
    """Pillow rounds 65,535 to 256 of 255, and keeps the low byte."""
    with Image.open(io.BytesIO(WHITE_BELOW)) as image:
        assert image.convert("RGB").getpixel((4, 7)) == (0, 0, 0), "Pillow has mended it: leave the check out"
    with pytest.raises(ValueError, match="has samples of 0, and Pillow makes white ones 0, too: convert it to 8 bits"):
        loaded(WHITE_BELOW)
    pixels = loaded(LIGHTER_BELOW)
    assert abs(int(pixels[0, 0, 0]) - 20_000 // 257) <= 1 and abs(int(pixels[-1, -1, 2]) - 30_000 // 257) <= 1


def test_a_deep_jpeg_xl_in_grey_with_alpha_is_refused() -> None:
    """Its plugin takes the two bytes of grey for grey and alpha."""
    assert read_header(GREY_AND_ALPHA_JXL).bits == 16
    with pytest.raises(ValueError, match="a JPEG XL in grey with alpha of 16 bits, which is not read: convert it"):
        loaded(GREY_AND_ALPHA_JXL)


def test_the_depth_of_a_jpeg_xl_is_in_its_header() -> None:
    for mode, bits in (("L", 8), ("RGB", 8)):
        assert read_header(saved(Image.new(mode, (40, 30)), "JXL", lossless=True)).bits == bits
    assert read_header(saved(Image.fromarray(colours(RAMP)[..., 0]), "JXL", lossless=True)).bits == 16
    assert read_header(saved(Image.fromarray(RAMP.astype(np.float32)), "JXL", lossless=True)).bits == 32
