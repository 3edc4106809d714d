"""Tests if the model can draw a subject in a skin tone that it never saw it in, without outside weights.

A generated picture is compared, by squared pixel distance, with its subject's six drawings as decoded from their stored
codes. It counts if the nearest is the requested one. If k drawings are equally near, because their codes are equal,
each counts 1/k. Guessing scores 1/6.
"""

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.errors import InputError
from pipeline.evaluation.samples import PICTURES_FILE
from pipeline.evaluation.token_quality import vqgan_of_tokens
from pipeline.pages.sheets import picture_sheet, spread, true_pictures
from pipeline.runs.paths import RunPaths
from tokenization.demo.compositions import SEEN, UNSEEN, VARIANTS
from tokenization.demo.openmoji import ATTRIBUTION
from tokenization.files.atomic_writing import write_atomically, write_png
from tokenization.table.token_table import list_token_shards
from tokenization.vqgan.image_tokenizer import ImageTokenizer

COMPOSITION_FILE, COMPOSITION_SHEET_FILE = "composition.parquet", "composition.png"
SHEET_COLUMNS = 12
COLUMNS = ("sample_id", "codes", "subject", "tone", "composition")
DECODE_BATCH = 32
"""Another batch size would round some pixels differently, and scores could not be compared with earlier ones."""


def six_variants(tokens: str) -> pd.DataFrame:
    """Returns the drawings of the subjects that have all six variants: `COLUMNS`, one row per drawing.

    Raises:
        InputError: the token table has no composition columns.
    """
    tables = []
    for shard in list_token_shards(tokens):
        names = shard.schema().names
        if missing := [name for name in COLUMNS if name not in names]:
            raise InputError(
                f"token shard {str(shard)!r} has no column {', '.join(missing)}; the composition score is of the "
                "demo's drawings: render and tokenize them again, under another --root"
            )
        tables.append(shard.read(list(COLUMNS)).to_pandas())
    found: pd.DataFrame = pd.concat(tables)
    return found[found["composition"] != ""].reset_index(drop=True)


def nearest_credit(pictures: np.ndarray, variants: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores each picture 1 if it is nearest to the requested variant, 0 if not.

    Args:
        pictures: uint8 [n, S, S, 3].
        variants: uint8 [n, 6, S, S, 3], the six drawings of each picture's subject.
        wanted: int [n], index of the requested variant.

    Returns:
        float [n], 1/k if the requested one is among the k nearest, else 0; and int [n], the nearest (the first of k).
    """
    # In integers: drawings with equal codes must have exactly equal distances.
    distance = np.stack(
        [
            ((six.astype(np.int64) - picture.astype(np.int64)) ** 2).sum((1, 2, 3))
            for picture, six in zip(pictures, variants, strict=True)
        ]
    )
    is_nearest = distance == distance.min(1, keepdims=True)
    own = is_nearest[np.arange(len(wanted)), wanted]
    return own / is_nearest.sum(1), distance.argmin(1)


def score_composition(paths: RunPaths) -> dict[str, float]:
    """Scores the run's generated pictures of subjects in six variants; pictures of other subjects are ignored.

    Writes the scores of all pictures and a sheet to `samples`.

    Returns:
        `composition_seen` and `composition_unseen`, over all languages and by language; and `composition_ceiling`, the
        score of the original drawings before the VQ-GAN, which shows how well it separates the tones.

    Raises:
        InputError: no picture shows such a subject.
    """
    vqgan, drawings = vqgan_of_tokens(paths), six_variants(paths.tokens)
    pictures = pd.read_parquet(paths.samples / PICTURES_FILE)
    table = pictures.merge(drawings.drop(columns="codes"), on="sample_id")
    if table.empty:
        raise InputError("no generated picture is of a subject in six variants; see evaluation.where of the recipe")
    decoded = _decoded_variants(vqgan, drawings[drawings["subject"].isin(table["subject"])])
    wanted = np.asarray([VARIANTS.index(tone) for tone in table["tone"]])
    six = np.stack([decoded[subject] for subject in table["subject"]])
    drawn = _decode(vqgan, table["codes"].to_list())
    table["credit"], nearest = nearest_credit(drawn, six, wanted)
    table["nearest"] = [VARIANTS[number] for number in nearest]
    first = table.drop_duplicates("sample_id").index
    truth = true_pictures(paths, table.loc[first, "sample_id"].to_list(), drawn.shape[1])
    originals = np.stack([truth[sample_id] for sample_id in table.loc[first, "sample_id"]])
    ceiling, _ = nearest_credit(originals, six[first], wanted[first])
    metrics = {"composition_pairs": len(first), "composition_ceiling": float(ceiling.mean())}
    for name in (SEEN, UNSEEN):
        of_name = table[table["composition"] == name]
        if len(of_name):
            metrics[f"composition_{name}"] = float(of_name["credit"].mean())
            for language, credit in of_name.groupby("language")["credit"]:
                metrics[f"composition_{name}_{language}"] = float(credit.mean())
    write_atomically(paths.samples / COMPOSITION_FILE, table.drop(columns="codes").to_parquet)
    write_png(paths.samples / COMPOSITION_SHEET_FILE, _sheet(table, drawn, six, wanted))
    return metrics


def _sheet(table: pd.DataFrame, drawn: np.ndarray, six: np.ndarray, wanted: np.ndarray) -> Image.Image:
    """Draws a sheet of unseen pairs, one per column.

    A column has the drawing of the requested tone, decoded from its stored codes, and below it each language's picture.
    If a picture is nearest to another tone, that tone is printed below it.
    """
    unseen = table[table["composition"] == UNSEEN]
    columns = []
    for sample_id in spread(unseen["sample_id"].unique().tolist(), SHEET_COLUMNS):
        rows = unseen.index[unseen["sample_id"] == sample_id]
        cells = [(table.loc[rows[0], "tone"] or "no tone", six[rows[0], wanted[rows[0]]])]
        for row in rows:
            one = table.loc[row]
            came = "" if one["nearest"] == one["tone"] else f": {one['nearest'] or 'no tone'}"
            cells.append((one["language"] + came, drawn[row]))
        columns.append(cells)
    return picture_sheet(columns or [[("nothing unseen", drawn[0])]], ATTRIBUTION)


def _decoded_variants(vqgan: ImageTokenizer, drawings: pd.DataFrame) -> dict[str, np.ndarray]:
    """Decodes each subject's six drawings from their stored codes, uint8 [6, S, S, 3], in `VARIANTS`' order."""
    ordered = drawings.assign(place=drawings["tone"].map(VARIANTS.index)).sort_values(["subject", "place"])
    pixels = _decode(vqgan, ordered["codes"].to_list())
    return dict(
        zip(
            ordered["subject"].to_list()[:: len(VARIANTS)],
            pixels.reshape(-1, len(VARIANTS), *pixels.shape[1:]),
            strict=True,
        )
    )


def _decode(vqgan: ImageTokenizer, codes: list[np.ndarray]) -> np.ndarray:
    return vqgan.decode_all(np.stack([np.asarray(line) for line in codes]), DECODE_BATCH)
