"""Mends what Pillow decodes otherwise than a format says and than other programs do."""

from PIL import Image, ImageChops, ImageFile

PADDING_FIRST = {"RGBX": "XRGB", "BGRX": "XBGR"}
"""Pillow's names of the samples of a Sun raster of 32 bits. The unused byte of a pixel is its first one."""


def mend_order(image: ImageFile.ImageFile) -> None:
    """Has the samples of an opened Sun raster of 32 bits decoded in their order."""
    if image.format == "SUN":
        for number, tile in enumerate(image.tile):
            name, *rest = tile.args if isinstance(tile.args, tuple) else (tile.args,)
            if raw_mode := PADDING_FIRST.get(str(name)):
                image.tile[number] = type(tile)(*tile[:3], (raw_mode, *rest) if rest else raw_mode)


def drawn_part(image: Image.Image) -> tuple[int, int, int, int] | None:
    """The left, top, right and bottom edge of what the first frame of an opened GIF draws on its screen; None if that
    is all of it, and for other formats. Pillow gives the rest some colour of the palette."""
    box = image.tile[0].extents if image.format == "GIF" and isinstance(image, ImageFile.ImageFile) else None
    return None if box == (0, 0, *image.size) else box


def on_white(rgb: Image.Image, box: tuple[int, int, int, int] | None) -> Image.Image:
    """A picture of which nothing but the part in `box` counts; None for all of it."""
    if box is None:
        return rgb
    screen = Image.new("RGB", rgb.size, "white")
    screen.paste(rgb.crop(box), box)
    return screen


def positive(image: Image.Image) -> Image.Image:
    """A loaded picture, or what it is the negative of: set bits of an X bitmap are ink, which Pillow makes white."""
    return ImageChops.invert(image) if image.format == "XBM" else image
