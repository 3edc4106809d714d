"""Reads and writes one large shard as a reader and a writer do, in this process, and says how much memory that took:

python -m tests.support.large_shard --corpus FOLDER --output FOLDER
"""

import json
import resource
import tarfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from tests.support.pictures import noise_png
from tests.support.plain_job import encoded
from tests.support.tokens import FINGERPRINT
from tokenization.config.sources import PACKAGED, CorpusSource
from tokenization.config.tokenization import TokenizationConfig
from tokenization.corpora.corpus import Corpus
from tokenization.job.rows import read_chunks
from tokenization.job.writer import Writer
from tokenization.text_tokenizer import load_text_tokenizer

CONFIG = TokenizationConfig(32, encode_batch_size=64, caption_columns={"caption": "en"})
SHARD = "00000.tar"


@dataclass(frozen=True)
class Options:
    """What is read and written."""

    corpus: str
    """Folder of the shard, or s3://bucket/prefix."""
    output: str
    """Folder of the tokens."""
    text_cache: Path
    """Folder of the converted vocabulary."""


def make_shard(path: Path, samples: int, picture_bytes: int) -> None:
    """Writes a tar of pictures that end with zeros, which take no room on the disk."""
    picture, place = noise_png(0), 0
    with path.open("wb") as file:
        for number in range(samples):
            caption = json.dumps({"caption": f"picture {number}"}).encode()
            for suffix, content, size in (("png", picture, picture_bytes), ("json", caption, len(caption))):
                member = tarfile.TarInfo(f"{number:08d}.{suffix}")
                member.size = size
                file.seek(place)
                file.write(member.tobuf() + content)
                place += tarfile.BLOCKSIZE * (1 - (-size // tarfile.BLOCKSIZE))
        file.truncate(place + tarfile.RECORDSIZE)


def main(options: Options) -> None:
    corpus = Corpus(CorpusSource(options.corpus, "webdataset"))
    tokenizer = load_text_tokenizer(PACKAGED, options.text_cache)
    writer = Writer(options.output, FINGERPRINT)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for chunk in read_chunks(corpus, SHARD, CONFIG, tokenizer):
        writer.add([encoded(chunk)])
    news = writer.news()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"rows": news.rows, "ended": len(news.ended), "grown_bytes": (after - before) * 1024}))


if __name__ == "__main__":
    main(tyro.cli(Options))
