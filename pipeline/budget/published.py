"""Published A100 GPU-days of text-to-image models, for comparison."""

SD15_GPU_DAYS = 6250.0
"""Stable Diffusion 1.5, as stated in MARS's paper."""
PAPER_GPU_DAYS = 587.0
"""MARS, as stated in its paper."""
PUBLISHED = {
    "Stable Diffusion 1.5 (MARS's paper)": SD15_GPU_DAYS,
    "PixArt-alpha (its page)": 675.0,
    "SD2-base, MosaicML (its repository: 651 to 705)": 651.0,
    "MARS (its paper)": PAPER_GPU_DAYS,
    "SD2, Anyscale on Ray (its template)": 549.0,
}
