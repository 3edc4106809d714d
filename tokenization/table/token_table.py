"""The token table: its schema, its fingerprint, and reading its shards.

It has one parquet file per input shard and one row per picture. It is the interface between tokenization and training.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tokenization.errors import InputError, OutageError
from tokenization.files.local_folder import LocalFolder
from tokenization.files.ranged_file import RangedFile
from tokenization.files.storage import Storage, open_storage

SCHEMA_VERSION = 1
VERSION_KEY, FINGERPRINT_KEY, CONTENT_KEY = b"mars.schema_version", b"mars.fingerprint", b"mars.content"
MANIFEST_FILE = "manifest.json"
CAPTION_TYPE = pa.struct(
    [("lang", pa.string()), ("text", pa.string()), ("ids", pa.list_(pa.int32())), ("truncated", pa.bool_())]
)
DOCUMENT_TYPE = pa.struct(
    [
        ("id", pa.string()),
        ("place", pa.int32()),
        ("of", pa.int32()),
        ("before", pa.list_(pa.int32())),
        ("after", pa.list_(pa.int32())),
    ]
)
"""A picture's place in an interleaved document, the text ids before it, and after the last picture those after it."""
CROP_TYPE = pa.struct([("left", pa.int32()), ("top", pa.int32()), ("side", pa.int32())])


@dataclass(frozen=True)
class Fingerprint:
    """Everything that decides a shard's codes and ids. Shards may be mixed only if their fingerprints are equal.

    `factor` is the number of pixels per code along one side; `pixel_range` has the VQ-GAN's values of black and white.
    """

    vq_sha256: str
    text_vocabulary_sha256: str
    transform: dict[str, Any]
    encoder_dtype: str
    encoder_batch_shape: list[int]
    codebook_size: int
    num_codes: int
    max_caption_ids: int
    caption_columns: dict[str, str]
    encoder_batch_shape_hr: list[int] | None = None
    num_codes_hr: int | None = None
    hr_where: str = ""
    factor: int = 16
    pixel_range: list[float] = field(default_factory=lambda: [-1.0, 1.0])

    def to_json(self) -> str:
        """JSON with sorted keys: equal fingerprints have equal text."""
        return json.dumps(asdict(self), sort_keys=True)


def columns(num_codes: int, num_codes_hr: int | None) -> list[pa.Field]:
    """The table's own columns; the corpus's pass-through columns follow them."""
    high = pa.list_(pa.uint16(), num_codes_hr) if num_codes_hr else pa.list_(pa.uint16())
    return [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("codes", pa.list_(pa.uint16(), num_codes), nullable=False),
        pa.field("codes_hr", high),
        pa.field("captions", pa.list_(CAPTION_TYPE), nullable=False),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("crop", CROP_TYPE),
        pa.field("document", DOCUMENT_TYPE),
    ]


OWN_COLUMNS = frozenset(field.name for field in columns(1, 1))


@dataclass(frozen=True)
class TokenShard:
    """One parquet file of a token folder. From a bucket, only the requested columns are fetched.

    Attributes:
        storage: the token folder.
        name: relative to it.
    """

    storage: Storage
    name: str

    def __str__(self) -> str:
        return f"{self.storage}/{self.name}"

    def schema(self) -> pa.Schema:
        """The schema in the file's footer.

        Raises:
            InputError: the file is no readable parquet.
        """
        with self._opened() as file:
            return file.schema_arrow

    @property
    def num_rows(self) -> int:
        """Number of rows, from the file's footer."""
        with self._opened() as file:
            return int(file.metadata.num_rows)

    def read(self, columns: list[str] | None = None, without: tuple[str, ...] = ()) -> pa.Table:
        """Reads some columns, or all, but not their fields of the names `without`, as in the `text` of `captions`."""
        with self._opened() as file:
            return file.read(_leaves(file, columns, without) if columns and without else columns)

    @contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        try:
            if isinstance(self.storage, LocalFolder):
                with self.storage.local(self.name) as path, pq.ParquetFile(path) as file:
                    yield file
            else:
                with pq.ParquetFile(pa.PythonFile(RangedFile(self.storage, self.name)), pre_buffer=True) as file:
                    yield file
        except OutageError:
            raise
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(
                f"token shard {str(self)!r} is no readable parquet ({error}); tokenize it again"
            ) from error


def _leaves(file: pq.ParquetFile, columns: list[str], without: tuple[str, ...]) -> list[str]:
    """The paths of the columns' leaves, as in `captions.list.element.ids.list.element`."""
    paths = [file.schema.column(number).path for number in range(len(file.schema))]
    parts = {path: path.split(".") for path in paths}
    return [path for path in paths if parts[path][0] in columns and not set(without) & set(parts[path])]


def list_token_shards(location: str | Path) -> list[TokenShard]:
    """Token shards under a folder or prefix of a bucket, sorted.

    Raises:
        InputError: there is none, or their manifest is missing (an unfinished run).
    """
    storage = open_storage(location)
    names = storage.names()
    shards = [TokenShard(storage, name) for name in names if name.endswith(".parquet")]
    if not shards:
        raise InputError(
            f"token folder {str(location)!r} has no token shard; run jobs/tokenize.py first, or name the "
            "folder that has them with corpora.NAME.tokens"
        )
    if MANIFEST_FILE not in names:
        raise InputError(
            f"token folder {str(location)!r} has no {MANIFEST_FILE}: tokenization did not finish; run it again"
        )
    return shards


def read_fingerprint(shard: TokenShard) -> str:
    """The fingerprint in a shard's footer.

    Raises:
        InputError: the file is no token shard, or of another schema version.
    """
    metadata = shard.schema().metadata or {}
    version = metadata.get(VERSION_KEY, b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise InputError(
            f"token shard {str(shard)!r} has schema version {version}, this code reads {SCHEMA_VERSION}; "
            "tokenize it again"
        )
    return str(metadata[FINGERPRINT_KEY], "utf-8")


def read_content(shard: TokenShard) -> str:
    """A hash of what training reads of the shard's rows, from its footer: ids, codes, captions, places in documents."""
    return str((shard.schema().metadata or {}).get(CONTENT_KEY, b""), "utf-8")


def common_fingerprint(shards: list[TokenShard]) -> Fingerprint:
    """The fingerprint that all shards share.

    Raises:
        InputError: two shards differ.
    """
    first = read_fingerprint(shards[0])
    for shard in shards[1:]:
        if (other := read_fingerprint(shard)) != first:
            keys = sorted(key for key, value in json.loads(other).items() if json.loads(first).get(key) != value)
            raise InputError(
                f"token shards {str(shards[0])!r} and {str(shard)!r} differ in {', '.join(keys)}; "
                "tokenize all of them with the same settings"
            )
    return Fingerprint(**json.loads(first))
