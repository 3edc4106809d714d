"""Renders plots as PNG with `Figure` instead of pyplot, which needs no display and no closing."""

import io

from matplotlib.figure import Figure

DPI = 110


def png_of(figure: Figure) -> bytes:
    """Returns a plot as PNG, without the empty space around it."""
    content = io.BytesIO()
    figure.savefig(content, dpi=DPI, format="png", bbox_inches="tight")
    return content.getvalue()
