"""Token tables of random codes, and the stage that reads them."""

from pathlib import Path

import numpy as np

from pipeline.config.stage import StageConfig
from pipeline.data.row_index import RowIndex
from pipeline.data.row_index_cache import cached_row_index
from pipeline.data.row_selection import RowSelection
from tests.support.small_models import CODEBOOK
from tokenization.table.shard_statistics import Notes, ShardCounts, ShardStatistics
from tokenization.table.token_table import Fingerprint
from tokenization.table.token_writing import write_token_shard

FINGERPRINT = Fingerprint(
    "vq", "text", {"size_px": 48}, "float32", [4, 48, 48, 3], CODEBOOK, 9, 77, {"caption_en": "en"}
)


STAGE = StageConfig(
    purpose="test",
    task_shares={"text_to_image": 0.4, "captioning": 0.3, "high_resolution": 0.3},
    task_weights={
        "text_to_image": 1.0,
        "captioning": 0.5,
        "opener": 0.1,
        "plain_text": 0.2,
        "high_resolution": 0.7,
    },  # 1 if none is given
    high_resolution_group=4,
    global_batch_size=16,
    micro_batch_size=2,
    seq_len=64,
    row_multiple=8,
)


def write_tokens(
    folder: Path, fingerprint: Fingerprint = FINGERPRINT, shards: int = 3, rows: int = 10, high: bool = True
) -> None:
    generator = np.random.default_rng(0)
    for shard in range(shards):
        lines = [
            {
                "sample_id": f"{shard:05d}.tar/{row:04d}",
                "codes": generator.integers(0, CODEBOOK, 9).astype(np.uint16),
                "codes_hr": generator.integers(0, CODEBOOK, 16).astype(np.uint16) if high else None,
                "captions": [
                    {"lang": "en", "text": "a b", "ids": [10 + row, 40 + shard], "truncated": False},
                    {"lang": "zh", "text": "c", "ids": [60 + row], "truncated": False},
                ],
                "width": 48,
                "height": 48,
                "crop": {"left": 0, "top": 0, "side": 48},
                "score": row / 10,
            }
            for row in range(rows)
        ]
        write_token_shard(folder / f"{shard:05d}.parquet", lines, fingerprint)
    (folder / "manifest.json").write_text("{}")


def stored_row_index(file: Path, selection: RowSelection) -> RowIndex:
    """The index of a selection, which is in the file afterwards."""
    return cached_row_index(file, selection).store()


def write_documents(folder: Path, rows: int = 6, longest: int = 3) -> list:
    """Writes documents of 1 to `longest` pictures, one after the other."""
    generator, lines = np.random.default_rng(1), []
    for number in range(rows):
        pictures = 1 + number % longest
        for place in range(pictures):
            before = [20 + number, 30 + place]
            after = [50] if place + 1 == pictures and number % 2 else []
            document = {"id": f"d{number}", "place": place, "of": pictures, "before": before, "after": after}
            codes = generator.integers(0, CODEBOOK, 9).astype(np.uint16)
            lines.append({"sample_id": f"{number}/{place}", "codes": codes, "captions": [], "document": document})
    write_token_shard(folder / "00000.parquet", lines, FINGERPRINT)
    (folder / "manifest.json").write_text("{}")
    return lines


def statistics_of(
    codes: np.ndarray,
    rejects: list[dict[str, str]],
    truncated: int = 0,
    notes: Notes | None = None,
    codebook_size: int = FINGERPRINT.codebook_size,
) -> ShardStatistics:
    """The statistics of a shard with these codes and rejects."""
    counts = ShardCounts(codebook_size)
    counts.add(codes, 0, truncated, rejects, notes or Notes())
    return counts.statistics()
