"""Pictures that Pillow reads otherwise than the format says and than other programs do."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from tokenization.config.pictures import Transform
from tokenization.corpora.pictures import load_picture

SIDE = 16
ANIMATED_JPEG_XL = bytes.fromhex(
    "ff0a47044d0020260804010040004b188b158055fe7f0002450500b06e080804010044004b188b15801dfcff0004900a0018c920"
    "010804050044004b188b15805dfcff0004920a0030c24002"
)
"""Frames of 32 x 32 px in plain grey of 10, 100 and 200, as libjxl writes them."""


def loaded(content: bytes) -> np.ndarray:
    return load_picture(content, Transform(SIDE)).pixels


@pytest.mark.parametrize("kind", [1, 3])
def test_a_sun_raster_of_32_bits_has_its_unused_byte_first(kind: int) -> None:
    """As ffmpeg and netpbm have it. With Pillow's order red pixels come out green."""
    colour = (30, 60, 200) if kind == 1 else (200, 60, 30)  # blue, green, red; RGB in files of kind 3
    header = struct.pack(">8I", 0x59A66A95, SIDE, SIDE, 32, 4 * SIDE * SIDE, kind, 0, 0)
    assert loaded(header + bytes([0, *colour]) * SIDE * SIDE)[0, 0].tolist() == [200, 60, 30]


def test_set_bits_of_an_x_bitmap_are_ink() -> None:
    rows = ", ".join(["0xff, 0x00"] * SIDE)
    content = f"#define a_width 16\n#define a_height 16\nstatic char a_bits[] = {{\n{rows}}};\n".encode()
    assert loaded(content)[0, ::8, 0].tolist() == [0, 255]


def test_what_the_first_frame_of_a_gif_leaves_out_is_white() -> None:
    """Browsers show nothing there; Pillow shows the first colour of the palette."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 60, 30)).save(stream, "GIF")
    content = bytearray(stream.getvalue())
    content[6:10] = struct.pack("<HH", SIDE, SIDE)  # the screen
    at = content.index(b"," + struct.pack("<4H", 0, 0, 8, 8)) + 1
    content[at : at + 4] = struct.pack("<HH", 4, 4)
    pixels = loaded(bytes(content))
    assert (pixels[4:12, 4:12] == [200, 60, 30]).all()
    assert (pixels[:4] == 255).all() and (pixels[12:] == 255).all() and (pixels[4:12, 12:] == 255).all()


def test_an_animated_jpeg_xl_is_refused_as_its_last_frame_would_come_for_the_first() -> None:
    with pytest.raises(ValueError, match="an animated JPEG XL, of which the plugin gives the last frame; store the"):
        loaded(ANIMATED_JPEG_XL)
