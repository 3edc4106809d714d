"""A Photoshop picture's channels are the right ones, however many there are."""

import struct

import numpy as np
import pytest

from tests.support.picture_files import GRADIENT
from tokenization.config.pictures import Transform
from tokenization.corpora.pictures import load_picture

SIDE = len(GRADIENT)
RAMP = np.tile(np.rint(GRADIENT * 255), (SIDE, 1)).astype(np.uint8)
HALF = np.where(np.arange(SIDE)[:, None] < SIDE // 2, 0, 255).repeat(SIDE, 1).astype(np.uint8)
"""The upper half transparent, or without ink."""
GREY, RGB, CMYK, MULTICHANNEL, DUOTONE, LAB = 1, 3, 4, 7, 8, 9


def photoshop(channels: list[np.ndarray], color_mode: int, packed: bool) -> bytes:
    """A picture of 8 bits without layers; `packed`: run-length encoded, rows of even numbers in shorter runs."""
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, len(channels), SIDE, SIDE, 8, color_mode)
    sections = bytes(4) + struct.pack(">I", 14) + b"8BIM\x04\x04\0\0\0\0\0\2ab" + bytes(4)
    if not packed:
        return header + sections + b"\0\0" + b"".join(channel.tobytes() for channel in channels)
    rows = [
        b"".join(
            bytes([length - 1]) + row[at : at + length].tobytes()
            for length in (16 if number % 2 else SIDE,)
            for at in range(0, SIDE, length)
        )
        for channel in channels
        for number, row in enumerate(channel)
    ]
    return header + sections + b"\0\1" + struct.pack(f">{len(rows)}H", *map(len, rows)) + b"".join(rows)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("more", [0, 1, 2])
@pytest.mark.parametrize("color_mode", [GREY, RGB, CMYK, DUOTONE])
def test_further_channels_move_no_colour_and_the_first_is_alpha(color_mode: int, more: int, packed: bool) -> None:
    colours = {GREY: [RAMP], DUOTONE: [RAMP], RGB: [RAMP, RAMP // 2, 255 - RAMP], CMYK: [RAMP] * 3 + [0 * RAMP + 255]}
    channels = [*colours[color_mode], *[HALF, RAMP.T][:more]]
    pixels = load_picture(photoshop(channels, color_mode, packed), Transform(SIDE)).pixels.astype(int)
    bands = colours[color_mode][:3] if color_mode in (RGB, CMYK) else colours[color_mode] * 3
    assert np.abs(pixels[SIDE // 2 :] - np.stack(bands, -1)[SIDE // 2 :]).max() <= 1
    upper = pixels[: SIDE // 2]
    if more and color_mode != CMYK:
        assert (upper == 255).all()
    else:
        assert np.abs(upper - np.stack(bands, -1)[: SIDE // 2]).max() <= 1


@pytest.mark.parametrize("packed", [False, True])
def test_lab_with_further_channels_keeps_its_colours(packed: bool) -> None:
    """L of 50%, a and b of 0: a middle grey."""
    plain = [0 * RAMP + 128] * 3
    for channels in (plain, [*plain, HALF]):
        pixels = load_picture(photoshop(channels, LAB, packed), Transform(SIDE)).pixels.astype(int)
        assert np.abs(pixels - 119).max() <= 3


def test_inks_without_a_colour_space_are_no_grey() -> None:
    with pytest.raises(ValueError, match="a Photoshop picture of 3 inks without a common colour space: convert it"):
        load_picture(photoshop([RAMP] * 3, MULTICHANNEL, packed=False), Transform(SIDE))


@pytest.mark.parametrize("packed", [False, True])
def test_a_cut_off_photoshop_picture_is_refused(packed: bool) -> None:
    whole = photoshop([RAMP, HALF], GREY, packed)
    for end in (25, 26, 40, 60, len(whole) // 2, len(whole) - 100):
        with pytest.raises(ValueError, match="not a readable picture"):
            load_picture(whole[:end], Transform(SIDE))


@pytest.mark.parametrize("packed", [False, True])
def test_a_set_bit_of_a_bitmap_is_black(packed: bool) -> None:
    """As Adobe's specification has it, and other readers."""
    row = b"\xf0" * (SIDE // 8)
    body = b"\0\0" + row * SIDE
    if packed:
        body = b"\0\1" + struct.pack(">H", 2) * SIDE + bytes([257 - len(row), 0xF0]) * SIDE
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 1, SIDE, SIDE, 1, 0)
    pixels = load_picture(header + bytes(12) + body, Transform(SIDE)).pixels
    assert np.array_equal(pixels[0, :8, 0], [0] * 4 + [255] * 4)


def test_a_photoshop_picture_of_16_bits_is_refused_as_such() -> None:
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 1, SIDE, SIDE, 16, GREY)
    with pytest.raises(ValueError, match="it is a Photoshop picture, damaged or of a kind that Pillow does not read"):
        load_picture(header + bytes(14 + 2 * SIDE * SIDE), Transform(SIDE))
