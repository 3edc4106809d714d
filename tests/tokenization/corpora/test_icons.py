"""A picture in an icon is what it is by itself."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from tests.support.picture_files import GRADIENT, png, png_chunk
from tokenization.config.pictures import Limits, Transform
from tokenization.corpora.pictures import load_picture

SIDE = len(GRADIENT)
DARK = np.rint(np.tile(GRADIENT, (SIDE, 1)) * 4095).astype(np.uint16)


def mac_icon(kind: bytes, content: bytes) -> bytes:
    return b"icns" + struct.pack(">I", 16 + len(content)) + kind + struct.pack(">I", 8 + len(content)) + content


def jpeg_2000(samples: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(samples).save(stream, "JPEG2000")
    return stream.getvalue()


@pytest.mark.parametrize("kind", [b"ic07", b"ic10"])
def test_a_deep_picture_in_a_mac_icon_that_would_be_dark_is_refused(kind: bytes) -> None:
    for content in (png(DARK, 16, 0), jpeg_2000(DARK)):
        with pytest.raises(ValueError, match=r"the brightest sample of the picture is 4095, and white is 65,535"):
            load_picture(mac_icon(kind, content), Transform(SIDE))


def test_a_transparent_colour_in_a_mac_icon_is_white() -> None:
    grey = np.where(DARK > 2000, 200, 90).astype(np.uint8)
    content = mac_icon(b"ic07", png(grey, 8, 0, png_chunk(b"tRNS", struct.pack(">H", 90))))
    pixels = load_picture(content, Transform(SIDE)).pixels
    assert pixels[0, 0].tolist() == [255] * 3 and pixels[0, -1].tolist() == [200] * 3


def test_the_limits_are_those_of_the_picture_inside() -> None:
    for content in (png(DARK, 16, 0), jpeg_2000(DARK)):
        with pytest.raises(ValueError, match=r"64 x 64 px, more than max_pixels 4000"):
            load_picture(mac_icon(b"ic10", content), Transform(16, 0, Limits(max_pixels=4000)))


def test_an_icon_that_breaks_off_gets_a_message() -> None:
    for content in (mac_icon(b"ic07", b"")[:13], b"icns\0\0\0\x20ic07\0\0\0\0", mac_icon(b"none", b"x" * 30)):
        with pytest.raises(ValueError, match="not a readable picture: "):
            load_picture(content, Transform(16))
