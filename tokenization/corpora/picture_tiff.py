"""Makes Pillow read all TIFFs by libtiff, which gives samples of any layout in the machine's own byte order.

By itself Pillow decodes uncompressed TIFFs without libtiff, and takes planes of 16 bits, and single planes of other
than 8 bits, for something else. It reads compressed big-endian integers with a sign and floating-point numbers as
little-endian.
"""

import re
from itertools import product
from typing import Any

from PIL import Image, TiffImagePlugin
from PIL.TiffImagePlugin import TiffImageFile

PHOTOMETRIC, BITS, PLANAR, EXTRA_SAMPLES, SAMPLE_FORMAT, COLOR_MAP = 262, 258, 284, 338, 339, 320
TILE_WIDTH, TILE_LENGTH = 322, 323
ASSOCIATED, UNASSOCIATED = 1, 2
"""Values of `EXTRA_SAMPLES`: alpha by which the colours are multiplied, and other alpha."""
DEEP_GREY_AND_ALPHA = (16, 16)
"""Values of `BITS`. Pillow does not know them, and is told that they are four bytes: `grey_and_alpha` joins these."""
NUMBERS = re.compile(r";(16|32)B?([SF])$")
"""The end of Pillow's names of signed and of floating-point samples, with their byte order."""
MAX_TILE_PIXELS = 16_000_000
"""A tile may be larger than the picture. libtiff takes memory for a whole one."""


def read_all_by_libtiff() -> None:
    """Makes Pillow's plugin do so, and adds the kinds of samples that it can decode then."""
    TiffImagePlugin.READ_LIBTIFF = True
    kinds = TiffImagePlugin.OPEN_INFO
    known = [(key[1:], value) for key, value in kinds.items() if key[0] == b"II" and key[3] == 1]
    known.append(((1, (3,), 1, (64,), ()), ("F", "F;64NF")))
    for (photometric, sample_format, _, bits, extra), (mode, raw_mode) in known:
        own = (mode, NUMBERS.sub(r";\1N\2", raw_mode))
        is_inverted_later = photometric == 1 and sample_format != (2,) and mode.startswith(("I", "F"))  # picture_depth
        for order, fill_order in product((b"II", b"MM"), (1, 2)):  # libtiff turns bits and bytes round
            kinds[(order, photometric, sample_format, fill_order, bits, extra)] = own
            if is_inverted_later:
                kinds.setdefault((order, 0, sample_format, fill_order, bits, extra), own)
    for order, fill_order, alpha in product((b"II", b"MM"), (1, 2), (ASSOCIATED, UNASSOCIATED)):
        kinds[(order, 1, (1,), fill_order, DEEP_GREY_AND_ALPHA, (alpha,))] = ("RGBA", "RGBA")


def tags_of(image: Image.Image) -> dict[int, Any]:
    """The tags of a TIFF that decide how it is decoded; empty for other formats."""
    return dict(image.tag_v2) if isinstance(image, TiffImageFile) else {}


def grey_and_alpha(image: Image.Image, byte: int) -> Image.Image:
    """One byte of each sample of a loaded TIFF of `DEEP_GREY_AND_ALPHA`: the low one (0), as it is stored, or the high
    one (1), not multiplied by alpha."""
    bands, is_multiplied = image.split(), byte == 1 and tags_of(image).get(EXTRA_SAMPLES) == (ASSOCIATED,)
    joined = Image.merge("La" if is_multiplied else "LA", (bands[byte], bands[2 + byte])).convert("LA")
    joined.format = image.format
    return joined


def check_layout(image: Image.Image) -> None:
    """Checks a TIFF that is not loaded yet.

    Raises:
        ValueError: it has planes that Pillow puts together wrongly, or enormous tiles.
    """
    tags = tags_of(image)
    if tags.get(PLANAR) == 2 and len(image.getbands()) > 1:
        mode = "LA" if tags.get(BITS) == DEEP_GREY_AND_ALPHA else image.mode
        if mode not in ("RGB", "RGBA", "CMYK") or tags.get(EXTRA_SAMPLES, ())[:1] == (ASSOCIATED,):
            kind = "premultiplied alpha" if mode == "RGBA" else mode
            raise ValueError(f"a TIFF with {kind} in separate planes, which Pillow does not read: store it interleaved")
    width, length = tags.get(TILE_WIDTH, 0), tags.get(TILE_LENGTH, 0)
    if width * length > max(MAX_TILE_PIXELS, 2 * image.width * image.height):
        raise ValueError(f"a TIFF in tiles of {width} x {length} px, more than {MAX_TILE_PIXELS:,} px and the picture")
