"""Sources of tokenization: corpora, and files that ship with the project or its packages."""

from dataclasses import dataclass
from pathlib import Path

from tokenization.config.pictures import Limits

SHIPPED = Path(__file__).parents[1] / "vqgan/openmoji_vqgan"
"""The demo's VQ-GAN, trained on the demo's corpus by `jobs/train_vqgan.py`."""
PACKAGED = "dashscope"
"""The source name of the rank file that the pip package `dashscope` ships."""

CORPUS_FORMATS = {
    "webdataset": "tokenization.corpora.tar:WebDataset",
    "parquet": "tokenization.corpora.parquet:ParquetShards",
    "documents": "tokenization.corpora.documents:Documents",
    "imagefolder": "tokenization.corpora.folder:ImageFolder",
    "files": "tokenization.corpora.folder:PictureFiles",
}
"""The corpus formats by name, each with the place of its `CorpusFormat` class. The class is imported when a corpus is
opened, so that settings and `--help` do not import the libraries that read pictures."""


@dataclass(frozen=True)
class CorpusSource:
    """The location and the format of a corpus. Plain values.

    Attributes:
        url: a local folder or prefix of a bucket.
        layout: one of `CORPUS_FORMATS`; empty: detected from the files.
        image_column: for parquet: the pictures' column; empty for the only one, or the first of the usual names.
        folder_shard_rows: for an imagefolder, and for `files`: pictures per virtual shard.
        max_bytes: larger members and pictures are not read.
    """

    url: str
    layout: str = ""
    image_column: str = ""
    folder_shard_rows: int = 1000
    max_bytes: int = Limits.max_bytes
