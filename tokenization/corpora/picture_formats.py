"""The formats that pictures may have, and how much work a file may ask for before it is decoded."""

import re
from contextlib import suppress
from typing import TypeGuard

from PIL import Image, ImageFile

from tokenization.corpora.jpeg_xl import is_jpeg_xl
from tokenization.corpora.picture_parts import count_part
from tokenization.corpora.picture_tiff import read_all_by_libtiff
from tokenization.files.signatures import HEIF_BRANDS

Image.init()
read_all_by_libtiff()
with suppress(ImportError):  # HEIC
    import pillow_heif

    pillow_heif.register_heif_opener()
with suppress(ImportError):  # JPEG XL: registers itself
    import pillow_jxl  # noqa: F401

REFUSED = ("EPS", "WMF", "IPTC")
"""For the first, Pillow would run Ghostscript on untrusted input. The second needs Windows. The third has a file of any
format inside, an EPS as well."""
FORMATS = tuple(name for name in Image.ID if name not in REFUSED)
"""All formats that Pillow opens by itself or with its plugins for HEIC and JPEG XL, if they are installed."""
EXTRA = "the project's extra `pictures` reads {}"
MAX_SCANNED_PIXELS = 3_000_000_000
"""A JPEG may come in any number of scans, each of which goes over all pixels: 89 million pixels may have 33."""
MAX_SAMPLES_IN_PYTHON = 12_600_000
"""Some decoders of Pillow are in Python, and take 0.25 to 0.4 microseconds for a sample: 5 s for 2048 x 2048 px of
three colours."""
MAX_SAMPLES = {"ppm": 8_400_000, "fits_gzip": 8_400_000, "SGI16": 10**9, "MSP": 10**9}
"""Two that take longer, and two that leave their work to C."""
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9


def plugin_for(content: bytes) -> str:
    """The plugin that reads a file which Pillow cannot identify, as part of a message; empty if none does."""
    if is_jpeg_xl(content) and "JXL" not in FORMATS:
        return f"; {EXTRA.format('JPEG XL')}"
    if content[4:8] == b"ftyp" and content[8:12] in HEIF_BRANDS and "HEIF" not in FORMATS:
        return f"; {EXTRA.format('HEIC')}"
    return ""


def check_work(image: Image.Image, content: bytes) -> None:
    """Checks how long an opened picture can take.

    Raises:
        ValueError: a JPEG with too many scans, or a large picture in a format that Pillow decodes in Python.
    """
    pixels = image.width * image.height
    if image.format in ("JPEG", "MPO"):
        most = max(1, MAX_SCANNED_PIXELS // max(1, pixels))
        if (scans := _count_scans(content, most + 1)) > most:
            raise ValueError(
                f"picture has {image.width} x {image.height} px in {scans} scans or more, {most} are allowed"
            )
    samples = pixels * len(image.getbands())
    for tile in getattr(image, "tile", []):
        if tile.codec_name in Image.DECODERS and samples > (most := limit_of(tile.codec_name)):
            raise ValueError(
                f"picture has {image.width} x {image.height} px of {image.format} in {image.mode}, which is decoded "
                f"slowly and may have {most // len(image.getbands()):,}"
            )


def limit_of(decoder: str) -> int:
    """How many samples a decoder in Python may decode."""
    return MAX_SAMPLES.get(decoder, MAX_SAMPLES_IN_PYTHON)


def is_decoded_in_python(image: Image.Image) -> TypeGuard[ImageFile.ImageFile]:
    """True if Pillow decodes an opened picture in Python."""
    return any(tile.codec_name in Image.DECODERS for tile in getattr(image, "tile", []))


def _count_scans(content: bytes, most: int) -> int:
    """Counts the scans of a JPEG, up to `most`."""
    scans, markers, at = 0, 0, 2
    while scans < most and (found := MARKER.search(content, at)):
        markers = count_part(markers)
        at, marker = found.end(), content[found.start() + 1]
        if marker == END_OF_IMAGE and scans:
            break
        if marker >= 0xC0 and not 0xD0 <= marker <= END_OF_IMAGE:  # the others have no length
            at += int.from_bytes(content[at : at + 2], "big")
        scans += marker == START_OF_SCAN
    return scans
