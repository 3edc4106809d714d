"""A JPEG 2000 that lacks parts is no picture with black ones."""

import io

import pytest
from PIL import Image

from tokenization.config.pictures import Transform
from tokenization.corpora.jpeg_2000 import largest_sample
from tokenization.corpora.pictures import load_picture

START_OF_TILE = b"\xff\x90\0\x0a"


def tiled(**how: object) -> bytes:
    stream = io.BytesIO()
    Image.radial_gradient("L").resize((60, 40)).save(stream, "JPEG2000", tile_size=(16, 16), **how)
    return stream.getvalue()


@pytest.mark.parametrize("how", [{}, {"no_jp2": True}, {"tile_offset": (3, 5), "offset": (7, 9)}], ids=str)
def test_a_jpeg_2000_without_some_of_its_tiles_is_refused(how: dict[str, object]) -> None:
    content = tiled(**how)
    load_picture(content, Transform(16))
    parts = content.split(START_OF_TILE)
    tiles = len(parts) - 1
    without_one = START_OF_TILE.join(parts[:3] + parts[4:])
    without_the_last = START_OF_TILE.join(parts[:-5]) + b"\xff\xd9"
    for damaged, count in ((without_one, tiles - 1), (without_the_last, tiles - 5)):
        with pytest.raises(ValueError, match=f"a JPEG 2000 with {count} of its {tiles} tiles; fetch it again"):
            load_picture(damaged, Transform(16))


def test_the_depth_of_what_is_no_codestream_is_8_bits() -> None:
    assert largest_sample(b"\xff\x4f\xff\x51") == largest_sample(b"") == 255
