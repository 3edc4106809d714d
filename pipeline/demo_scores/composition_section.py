"""The section of the report on composition."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.demo_scores.composition import COMPOSITION_FILE, COMPOSITION_SHEET_FILE
from pipeline.pages.figures import png_of
from pipeline.pages.html import Section
from pipeline.runs.paths import RunPaths
from tokenization.demo.compositions import SEEN, UNSEEN, VARIANTS

CHANCE = 1 / len(VARIANTS)
NO_TONE = "no tone"


def composition_sections(paths: RunPaths, metrics: dict[str, Any]) -> list[Section]:
    """Returns one section, or none if the run has no composition scores."""
    if not (paths.samples / COMPOSITION_FILE).exists() or f"composition_{UNSEEN}" not in metrics:
        return []
    text = (
        "Pictures of subjects in six variants of skin tone. A picture counts where it is nearer to the drawing asked "
        "for than to its subject's five others. The sheet shows pairs of subject and tone that training never saw: "
        "above, the drawing over the tone asked for; below, the pictures generated from its names, and the tone that "
        "each is nearest to where that is another."
    )
    plot = composition_plot(pd.read_parquet(paths.samples / COMPOSITION_FILE), metrics)
    return [Section("Composition", text, pictures=[plot, (paths.samples / COMPOSITION_SHEET_FILE).read_bytes()])]


def composition_plot(table: pd.DataFrame, metrics: dict[str, Any]) -> bytes:
    """Returns a PNG: scores of seen and unseen pairs by language, and the nearest tone of each unseen pair."""
    figure = Figure(figsize=(10, 4))
    bars, tones = figure.subplots(1, 2, width_ratios=[1, 1.2])
    scores = table.groupby(["composition", "language"])["credit"].mean().unstack()
    scores.reindex([SEEN, UNSEEN]).plot.bar(ax=bars, rot=0)
    bars.axhline(CHANCE, color="#888888", linestyle=":", label="guessing")
    bars.axhline(metrics["composition_ceiling"], color="#444444", linestyle="--", label="the drawings themselves")
    bars.set(ylim=(0, 1.05), xlabel="pairs of subject and tone", ylabel="right of six")
    bars.legend(fontsize=8)
    _plot_tones(tones, table[table["composition"] == UNSEEN])
    figure.tight_layout()
    return png_of(figure)


def _plot_tones(axis: Axes, unseen: pd.DataFrame) -> None:
    counts = (
        pd.crosstab(unseen["tone"], unseen["nearest"])
        .reindex(index=VARIANTS, columns=VARIANTS, fill_value=0)
        .to_numpy(int)
    )
    axis.imshow(counts, cmap="Blues")
    names = [variant or NO_TONE for variant in VARIANTS]
    axis.set_xticks(range(len(VARIANTS)), names, rotation=30, ha="right", fontsize=8)
    axis.set_yticks(range(len(VARIANTS)), names, fontsize=8)
    axis.set(xlabel="nearest drawing", ylabel="asked for", title="unseen pairs, pictures")
    for row in range(len(VARIANTS)):
        for column in range(len(VARIANTS)):
            colour = "white" if counts[row, column] > counts.max() / 2 else "black"
            axis.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour)
