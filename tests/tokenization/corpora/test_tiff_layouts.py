"""A TIFF has the same pixels however its samples are stored, or is refused with the true reason."""

import itertools
import struct
from typing import Any, Literal

import numpy as np
import pytest

from tests.support.picture_files import GRADIENT, SHORT, tiff
from tokenization.config.pictures import Transform
from tokenization.corpora.pictures import load_picture

SIDE = len(GRADIENT)
RAMP = np.tile(GRADIENT, (SIDE, 1))
WHITE = {"u1": 255, "u2": 65_535, "u4": 2**32 - 1, "i1": 255, "i2": 65_535, "i4": 2**31 - 1, "f4": 1, "f8": 1}
"""Of signed numbers of 8 and 16 bits it is that of unsigned ones."""
BLACK_IS_0, WHITE_IS_0, RGB, CMYK, LAB = 1, 0, 2, 5, 8
LAYOUTS = [("<", 1, 1), (">", 1, 1), ("<", 8, 1), (">", 8, 1), ("<", 1, 2), (">", 1, 2), ("<", 8, 2), (">", 8, 2)]
"""Byte order, compression, and 2 for planes."""


def samples_of(ramp: np.ndarray, dtype: str) -> np.ndarray:
    kind = np.dtype(dtype)
    most = WHITE[dtype] if kind.kind != "i" or kind.itemsize == 4 else 2 ** (8 * kind.itemsize - 1) - 1
    return (ramp * most + (0.5 if kind.kind != "f" else 0)).astype(kind)


def loaded(content: bytes) -> np.ndarray:
    return load_picture(content, Transform(SIDE)).pixels


def extra(order: str, value: int) -> list[tuple[int, int, int, bytes]]:
    return [(338, SHORT, 1, struct.pack(order + "H", value))]


@pytest.mark.parametrize("dtype", WHITE)
def test_a_grey_gradient_is_the_same_in_every_layout(dtype: str) -> None:
    most = 127 if dtype in ("i1", "i2") else 255
    expected = np.rint(GRADIENT * most)[None, :, None]
    for order, compression, planar in LAYOUTS:
        layout: Any = {"order": order, "compression": compression, "planar": planar}
        pixels = loaded(tiff(samples_of(RAMP, dtype), BLACK_IS_0, **layout))
        assert np.abs(pixels - expected).max() <= 1.01, (layout, pixels[0, ::9, 0])
        if not dtype.startswith("i"):
            inverted = loaded(tiff(samples_of(1 - RAMP, dtype), WHITE_IS_0, **layout))
            assert np.abs(inverted - expected).max() <= 1.01, (layout, inverted[0, ::9, 0])


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("kind", ["RGB", "RGBA", "CMYK", "unspecified fourth"])
def test_a_gradient_of_three_colours_is_the_same_in_every_layout(kind: str, dtype: str) -> None:
    ramps = [RAMP, RAMP / 2, 1 - RAMP]
    expected = np.stack([ramp[0] * 255 for ramp in ramps], -1)[None]
    if kind == "CMYK":
        ramps = [1 - ramp for ramp in ramps]
    if kind != "RGB":
        ramps += [0 * RAMP if kind == "CMYK" else RAMP if kind == "unspecified fourth" else 1 + 0 * RAMP]
    samples = np.stack([samples_of(ramp, dtype) for ramp in ramps], -1)
    for order, compression, planar in LAYOUTS:
        more = {"RGBA": extra(order, 2), "unspecified fourth": extra(order, 0)}.get(kind, [])
        layout: Any = {"order": order, "compression": compression, "planar": planar}
        pixels = loaded(tiff(samples, CMYK if kind == "CMYK" else RGB, more=more, **layout))
        assert np.abs(pixels - expected).max() <= 2, (layout, pixels[0, ::9])


@pytest.mark.parametrize("alpha", [1, 2])
def test_16_bits_of_grey_and_alpha_lie_over_white(alpha: int) -> None:
    shares = np.minimum(1, RAMP.T + 0.2)
    grey = RAMP * shares if alpha == 1 else RAMP
    samples = np.stack([samples_of(grey, "u2"), samples_of(shares, "u2")], -1)
    expected = 255 * (RAMP * shares + 1 - shares)
    for order, compression in itertools.product("<>", (1, 8)):
        layout: Any = {"order": order, "compression": compression, "more": extra(order, alpha)}
        pixels = loaded(tiff(samples, BLACK_IS_0, **layout))
        assert np.abs(pixels - expected[..., None]).max() <= 4, layout
        with pytest.raises(ValueError, match="the brightest sample of the picture is below 4,096, and white is 65,535"):
            loaded(tiff(np.stack([samples[..., 0] // 16, 0 * samples[..., 1] + 65_535], -1), BLACK_IS_0, **layout))
    black = np.stack([0 * samples[..., 0], 0 * samples[..., 1] + 65_535], -1)
    assert (loaded(tiff(black, BLACK_IS_0, more=extra("<", alpha))) == 0).all()


def test_few_bits_in_a_plane_of_their_own_are_no_other_bits() -> None:
    steps = np.tile(np.arange(16).repeat(4), (SIDE, 1)).astype(np.uint8)
    packed = (steps[:, 0::2] << 4) | steps[:, 1::2]
    for photometric, order in itertools.product((BLACK_IS_0, WHITE_IS_0), "<>"):
        own: Literal["<", ">"] = "<" if order == "<" else ">"
        content = tiff(packed, photometric, own, planar=2, bits=4).replace(
            struct.pack(order + "HHII", 256, 4, 1, 32), struct.pack(order + "HHII", 256, 4, 1, 64)
        )
        expected = steps[0] * 17 if photometric == BLACK_IS_0 else 255 - steps[0] * 17
        assert np.array_equal(loaded(content)[0, :, 0], expected)


@pytest.mark.parametrize(
    ("samples", "photometric", "alpha", "message"),
    [
        (np.zeros((8, 8, 2), np.uint8), BLACK_IS_0, 2, "a TIFF with LA in separate planes"),
        (np.zeros((8, 8, 2), np.uint16), BLACK_IS_0, 2, "a TIFF with LA in separate planes"),
        (np.zeros((8, 8, 4), np.uint16), RGB, 1, "a TIFF with premultiplied alpha in separate planes"),
        (np.zeros((8, 8, 3), np.uint8), LAB, None, "a TIFF with LAB in separate planes"),
    ],
)
def test_planes_that_pillow_mixes_up_are_refused_by_name(
    samples: np.ndarray, photometric: int, alpha: int | None, message: str
) -> None:
    more = [] if alpha is None else extra("<", alpha)
    for compression in (1, 8):
        with pytest.raises(ValueError, match=f"{message}, which Pillow does not read: store it interleaved"):
            loaded(tiff(samples, photometric, more=more, planar=2, compression=compression))


@pytest.mark.parametrize(
    ("samples", "photometric"),
    [
        (np.zeros((8, 8, 3), np.uint32), RGB),
        (np.zeros((8, 8, 3), np.float32), RGB),
        (np.zeros((8, 8, 3), np.int8), RGB),
        (np.zeros((8, 8, 2), np.uint32), BLACK_IS_0),
        (np.zeros((8, 8), np.float16), BLACK_IS_0),
        (np.zeros((8, 8), np.int8), WHITE_IS_0),
    ],
)
def test_samples_that_pillow_does_not_read_are_refused_as_such(samples: np.ndarray, photometric: int) -> None:
    more = extra("<", 2) if samples.shape[2:] == (2,) else []
    for order in ("<", ">"):
        with pytest.raises(ValueError, match="it is a TIFF picture, damaged or of a kind that Pillow does not read"):
            loaded(tiff(samples, photometric, "<" if order == "<" else ">", more=more if order == "<" else []))


@pytest.mark.parametrize(("dtype", "lowest"), [("i1", -128), ("i2", -300)])
def test_a_negative_sample_does_not_become_a_bright_one(dtype: str, lowest: int) -> None:
    samples = samples_of(RAMP, dtype)
    samples[0, 0] = lowest
    for compression, order in itertools.product((1, 8), "<>"):
        layout: Any = {"order": order, "compression": compression}
        with pytest.raises(ValueError, match=f"negative samples, down to {lowest}"):
            loaded(tiff(samples, BLACK_IS_0, **layout))


def test_a_tile_far_larger_than_the_picture_is_refused_before_it_is_decoded() -> None:
    large = [(322, SHORT, 1, struct.pack("<H", 60_000)), (323, SHORT, 1, struct.pack("<H", 20_000))]
    with pytest.raises(ValueError, match="a TIFF in tiles of 60000 x 20000 px"):
        loaded(tiff(np.zeros((8, 8, 3), np.uint8), RGB, more=large))
