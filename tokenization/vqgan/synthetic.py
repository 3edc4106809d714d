"""Synthetic drawings: random shapes with flat and graded fills, outlines and strokes.

A VQ-GAN that is trained on one artist's drawings alone has no codes for other lines, gradients and colours. All
probabilities and ranges here are this project's own choice.
"""

import colorsys
import io
import math
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tokenization.errors import InputError

SIDE = 256
"""Side of the SVG's own units."""
CENTER = SIDE // 2
GREYS = (0.0, 0.05, 0.15, 0.6, 0.9, 1.0, 1.0)
INKS = ("#000", "#222", "#333")
ROUND = ' stroke-linecap="round" stroke-linejoin="round"'

Point = tuple[float, float]


def synthetic_pictures(generator: np.random.Generator, size_px: int) -> Iterator[np.ndarray]:
    """Yields drawings without end, over white, uint8 [size_px, size_px, 3].

    Raises:
        InputError: the package that renders SVG is not installed.
    """
    try:
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise InputError(
            f"synthetic drawings need the package {error.name!r}: pip install '.[demo]', or set vqgan.synthetic_share=0"
        ) from error
    while True:
        svg = synthetic_svg(generator)
        png = svg_to_bytes(svg_string=svg, width=size_px, height=size_px, background="#ffffff", skip_system_fonts=True)
        yield np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB"))


def synthetic_svg(generator: np.random.Generator) -> str:
    """A drawing of two to thirteen shapes, some of them repeated, in shades of one to four colours. A quarter of the
    drawings have a background."""
    draw = _Drawing(generator)
    outline = draw.outline() if draw.happens(0.3) else ""
    background = "" if draw.happens(0.75) else f'<rect width="{SIDE}" height="{SIDE}" fill="{draw.fill()}"/>'
    shapes = draw.shapes(draw.between(70, 125), outline) if draw.happens(0.8) else ""
    for _ in range(generator.integers(2, 13)):
        shapes += draw.shapes(draw.between(30, 110), outline)
    gradients = "".join(draw.gradients)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIDE} {SIDE}">'
        f"<defs>{gradients}</defs>{background}{shapes}</svg>"
    )


class _Drawing:
    """Draws the parts of one drawing.

    Attributes:
        gradients: the gradients that its fills name, as SVG.
    """

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator, self.gradients = generator, list[str]()
        self._colours = [self._any_colour() for _ in range(generator.integers(1, 5))]

    def between(self, low: float, high: float) -> float:
        """A uniform number."""
        return float(self._generator.uniform(low, high))

    def happens(self, share: float) -> bool:
        """True for this share of the calls."""
        return bool(self._generator.random() < share)

    def outline(self) -> str:
        """The look of the outlines that all shapes of a drawing have: mostly dark."""
        colour = self._generator.choice(INKS) if self.happens(0.7) else self._colour()
        return f' stroke="{colour}" stroke-width="{self.between(2, 8):.1f}" stroke-linejoin="round"'

    def fill(self) -> str:
        """A colour, or a linear or radial gradient of two or three."""
        kind = self._generator.random()
        if kind < 0.6:
            return self._colour()
        name, stops = f"g{len(self.gradients)}", self._stops(2 if self.happens(0.75) else 3)
        if kind < 0.85:
            angle = self.between(0, 2 * math.pi) if self.happens(0.5) else math.pi / 2
            x, y = math.cos(angle) / 2, math.sin(angle) / 2
            ends = f'x1="{0.5 - x:.3f}" y1="{0.5 - y:.3f}" x2="{0.5 + x:.3f}" y2="{0.5 + y:.3f}"'
            self.gradients.append(f'<linearGradient id="{name}" {ends}>{stops}</linearGradient>')
        else:
            x, y, radius = self.between(0.3, 0.7), self.between(0.3, 0.7), self.between(0.4, 0.8)
            circle = f'cx="{x:.3f}" cy="{y:.3f}" r="{radius:.3f}"'
            self.gradients.append(f'<radialGradient id="{name}" {circle}>{stops}</radialGradient>')
        return f"url(#{name})"

    def shapes(self, largest: float, outline: str) -> str:
        """A shape of up to this radius; sometimes with its mirror image, or in a row of five."""
        radius = largest * math.exp(self.between(-2.6, 0))
        reach = 116 - 0.6 * radius
        x, y = CENTER + self.between(-reach, reach), CENTER + self.between(-reach, reach)
        if self.happens(0.3):
            x = CENTER
        turn = 0.0 if self.happens(0.5) else self.between(0, 360)
        shape = self._area(radius, outline) if self.happens(0.85) else self._stroke(radius)
        if self.happens(0.1):
            shape += f' opacity="{self.between(0.3, 0.9):.2f}"'
        drawn = _placed(shape, x, y, turn)
        if x != CENTER and self.happens(0.4):
            return drawn + _placed(shape, SIDE - x, y, turn, mirrored=True)
        if self.happens(0.08):
            step_x, step_y = self.between(-2.5, 2.5) * radius, self.between(-2.5, 2.5) * radius
            drawn += "".join(_placed(shape, x + step_x * each, y + step_y * each, turn) for each in range(1, 5))
        return drawn

    def _any_colour(self) -> tuple[float, float, float]:
        """Hue, saturation and value, from 0 to 1; no colour is nearly black."""
        return self.between(0, 1), self.between(0, 1) ** 0.7, self.between(0.25, 1)

    def _colour(self) -> str:
        """A shade of one of the drawing's colours, or a grey."""
        hue, saturation, value = self._colours[self._generator.integers(len(self._colours))]
        if self.happens(0.12):
            hue, saturation, value = 0.0, 0.0, float(self._generator.choice(GREYS))
        elif self.happens(0.7):
            hue, saturation = (hue + self.between(-0.03, 0.03)) % 1, min(1.0, saturation * self.between(0.6, 1.2))
            value = min(1.0, value * self.between(0.6, 1.25))
        return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hsv_to_rgb(hue, saturation, value))

    def _stops(self, count: int) -> str:
        return "".join(
            f'<stop offset="{each / (count - 1):.2f}" stop-color="{self._colour()}"/>' for each in range(count)
        )

    def _area(self, radius: float, outline: str) -> str:
        """An ellipse, a rectangle, a polygon, a star or a blob, filled."""
        kind = self._generator.random()
        if kind < 0.33:
            flat = 1.0 if self.happens(0.5) else self.between(0.25, 1)
            body = f'<ellipse rx="{radius:.1f}" ry="{radius * flat:.1f}"'
        elif kind < 0.56:
            body = self._rectangle(radius)
        elif kind < 0.76:
            body = f'<polygon points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in self._corners(radius))}"'
        else:
            body = f'<path d="{_smooth(self._blob(radius))}"'
        if not outline and self.happens(0.2):
            width = math.exp(self.between(0.2, 2.2))
            outline = f' stroke="{self._colour()}" stroke-width="{width:.1f}"{ROUND}'
        return f'{body} fill="{self.fill()}"{outline}'

    def _stroke(self, radius: float) -> str:
        """A line or a curve."""
        x1, y1, *others = (f"{self.between(-radius, radius):.1f}" for _ in range(8))
        path = f"M{x1} {y1}L{others[0]} {others[1]}" if self.happens(0.35) else f"M{x1} {y1}C{' '.join(others)}"
        width = math.exp(self.between(0.4, 2.6))
        return f'<path d="{path}" fill="none" stroke="{self._colour()}" stroke-width="{width:.1f}"{ROUND}'

    def _rectangle(self, radius: float) -> str:
        width, height = radius * self.between(0.3, 1), radius * self.between(0.15, 1)
        corner = 0.0 if self.happens(0.4) else self.between(0, min(width, height))
        size = f'width="{2 * width:.1f}" height="{2 * height:.1f}" rx="{corner:.1f}"'
        return f'<rect x="{-width:.1f}" y="{-height:.1f}" {size}'

    def _corners(self, radius: float) -> list[Point]:
        """The corners of an uneven polygon, or of a star."""
        count = int(self._generator.integers(3, 9))
        if self.happens(0.3):
            inner = self.between(0.35, 0.8)
            return [_at(radius * (inner if each % 2 else 1), each / (2 * count)) for each in range(2 * count)]
        return [_at(radius * self.between(0.6, 1), (each + self.between(-0.25, 0.25)) / count) for each in range(count)]

    def _blob(self, radius: float) -> list[Point]:
        count = int(self._generator.integers(4, 9))
        return [_at(radius * self.between(0.45, 1), (each + self.between(-0.2, 0.2)) / count) for each in range(count)]


def _at(radius: float, turn: float) -> Point:
    """The point at a distance from the origin, after a share of a full turn."""
    return radius * math.cos(2 * math.pi * turn), radius * math.sin(2 * math.pi * turn)


def _smooth(points: list[Point]) -> str:
    """The closed path through points whose tangents are those of a Catmull-Rom spline."""
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for each, (x1, y1) in enumerate(points):
        (x0, y0), (x2, y2), (x3, y3) = (points[(each + offset) % len(points)] for offset in (-1, 1, 2))
        path += f"C{x1 + (x2 - x0) / 6:.1f} {y1 + (y2 - y0) / 6:.1f}"
        path += f" {x2 - (x3 - x1) / 6:.1f} {y2 - (y3 - y1) / 6:.1f} {x2:.1f} {y2:.1f}"
    return f"{path}Z"


def _placed(shape: str, x: float, y: float, turn_degrees: float, mirrored: bool = False) -> str:
    mirror = " scale(-1 1)" if mirrored else ""
    return f'{shape} transform="translate({x:.1f} {y:.1f}){mirror} rotate({turn_degrees:.0f})"/>'
