"""Plots as PNG. They are made as `Figure`, not with pyplot: no display is looked for, and nothing needs closing."""

import io

from matplotlib.figure import Figure

DPI = 110


def png_of(figure: Figure) -> bytes:
    """A plot without the empty space around it."""
    content = io.BytesIO()
    figure.savefig(content, dpi=DPI, format="png", bbox_inches="tight")
    return content.getvalue()
