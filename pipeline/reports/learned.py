"""The report's sections on what was learned: preservation, composition, and two experts beside one."""

import io
import json
from dataclasses import dataclass, field
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

from pipeline.demo.composition import COMPOSITION_FILE, COMPOSITION_SHEET_FILE
from pipeline.reports.experts_table import PLOT_FILE, SUMMARY_FILE, experts_folder, experts_table
from pipeline.runs.paths import RunPaths
from tokenization.demo.compositions import SEEN, UNSEEN, VARIANTS

CHANCE = 1 / len(VARIANTS)
NO_TONE = "no tone"


@dataclass(frozen=True)
class Section:
    """A heading, a text, a table and PNG pictures."""

    title: str
    text: str
    table: pd.DataFrame | None = None
    pictures: list[bytes] = field(default_factory=list)


def learned_sections(paths: RunPaths, metrics: dict[str, Any]) -> list[Section]:
    """The sections that the run has figures for."""
    sections = []
    if "text_perplexity" in metrics:
        names = ("text_perplexity", "base_text_perplexity", "text_logits_max_abs_diff", "openers_in_text")
        rows = [(name, f"{metrics[name]:.6g}") for name in (*names, "held_out_texts") if name in metrics]
        sections.append(
            Section(
                "Preservation",
                "The trained model's text beside its language expert's: perplexity of captions that nothing was "
                "trained on, and the largest difference of a text logit; and the share of those captions' positions "
                "before the last at which a picture would open.",
                pd.DataFrame(rows, columns=["", "value"]),
            )
        )
    if (paths.samples / COMPOSITION_FILE).exists() and f"composition_{UNSEEN}" in metrics:
        sections.append(
            Section(
                "Composition",
                "Pictures of subjects in six variants of skin tone. A picture counts where it is nearer to the drawing "
                "asked for than to its subject's five others. The sheet shows pairs of subject and tone that training "
                "never saw: above, the drawing over the tone asked for; below, what was made of its names, and the "
                "tone that came out where it is another.",
                pictures=[
                    composition_plot(pd.read_parquet(paths.samples / COMPOSITION_FILE), metrics),
                    (paths.samples / COMPOSITION_SHEET_FILE).read_bytes(),
                ],
            )
        )
    folder = experts_folder(paths)
    if (folder / SUMMARY_FILE).exists():
        figures = json.loads((folder / SUMMARY_FILE).read_text())
        sections.append(
            Section(
                "Why two experts",
                f"The same {figures['steps']} steps with SemVIE and with one shared, trained expert; the drift of the "
                f"text logits from the base's is measured on {figures['held_out_texts']} held-out captions.",
                experts_table(figures),
                [(folder / PLOT_FILE).read_bytes()],
            )
        )
    return sections


def composition_plot(table: pd.DataFrame, metrics: dict[str, Any]) -> bytes:
    """A PNG: the score of seen and unseen pairs by language, and which tone the unseen ones came out in."""
    figure, (bars, tones) = plt.subplots(1, 2, figsize=(10, 4), width_ratios=[1, 1.2])
    scores = table.groupby(["composition", "language"])["credit"].mean().unstack()
    scores.reindex([SEEN, UNSEEN]).plot.bar(ax=bars, rot=0)
    bars.axhline(CHANCE, color="#888888", linestyle=":", label="guessing")
    bars.axhline(metrics["composition_ceiling"], color="#444444", linestyle="--", label="the drawings themselves")
    bars.set(ylim=(0, 1.05), xlabel="pairs of subject and tone", ylabel="right of six")
    bars.legend(fontsize=8)
    unseen = table[table["composition"] == UNSEEN]
    counts = (
        pd.crosstab(unseen["tone"], unseen["nearest"])
        .reindex(index=VARIANTS, columns=VARIANTS, fill_value=0)
        .to_numpy(int)
    )
    tones.imshow(counts, cmap="Blues")
    names = [variant or NO_TONE for variant in VARIANTS]
    tones.set_xticks(range(len(VARIANTS)), names, rotation=30, ha="right", fontsize=8)
    tones.set_yticks(range(len(VARIANTS)), names, fontsize=8)
    tones.set(xlabel="nearest drawing", ylabel="asked for", title="unseen pairs, pictures")
    for row in range(len(VARIANTS)):
        for column in range(len(VARIANTS)):
            dark = counts[row, column] > counts.max() / 2
            colour = "white" if dark else "black"
            tones.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour)
    figure.tight_layout()
    content = io.BytesIO()
    figure.savefig(content, dpi=110, format="png")
    plt.close(figure)
    return content.getvalue()
