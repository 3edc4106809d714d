"""Writes token shards. Rows are packed where they are made, so that little is left to do for whoever writes a shard."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tokenization.corpora.samples import readable
from tokenization.table.token_table import (
    CONTENT_KEY,
    FINGERPRINT_KEY,
    OWN_COLUMNS,
    SCHEMA_VERSION,
    VERSION_KEY,
    Fingerprint,
    columns,
)

CODES = ("codes", "codes_hr")
WITHOUT_CODES = pa.schema([field for field in columns(1, 1) if field.name not in CODES])


@dataclass(frozen=True)
class PackedRows:
    """Rows without their codes.

    Attributes:
        own: the table's own columns, `WITHOUT_CODES`, as Arrow writes a batch.
        texts: for each row what of it training reads besides codes, as JSON for `content_sha256`.
        others: each row's pass-through columns.
    """

    own: bytes
    texts: list[bytes]
    others: list[dict[str, Any]]

    def table(self) -> pa.Table:
        """The table's own columns without codes."""
        return pa.Table.from_batches([pa.ipc.read_record_batch(pa.py_buffer(self.own), WITHOUT_CODES)])


def pack_rows(rows: list[dict[str, Any]]) -> PackedRows:
    """Packs rows (dicts with the table's columns and pass-through ones)."""
    lines = [{name: row.get(name) for name in WITHOUT_CODES.names} for row in rows]
    texts = [[row["sample_id"], row["captions"], row.get("document")] for row in rows]
    return PackedRows(
        pa.RecordBatch.from_pylist(lines, schema=WITHOUT_CODES).serialize().to_pybytes(),
        [json.dumps(text, sort_keys=True).encode() for text in texts],
        [{name: value for name, value in row.items() if name not in OWN_COLUMNS} for row in rows],
    )


@dataclass(frozen=True)
class EncodedRows:
    """Packed rows with their codes: uint16 [n, N], and [m, N_hr] for the rows at the indices `places_hr`, or None."""

    rows: PackedRows
    codes: np.ndarray
    codes_hr: np.ndarray | None
    places_hr: list[int]

    def content(self) -> list[bytes]:
        """The bytes of which `content_sha256` is the hash, row by row."""
        high = dict(zip(self.places_hr, [] if self.codes_hr is None else self.codes_hr, strict=True))
        found: list[bytes] = []
        for place, (text, codes) in enumerate(zip(self.rows.texts, self.codes, strict=True)):
            found += (text, codes.tobytes(), high[place].tobytes() if place in high else b"-")
        return found

    def table(self, num_codes: int, num_codes_hr: int | None) -> pa.Table:
        """The table's own columns."""
        table, fields = self.rows.table(), {field.name: field for field in columns(num_codes, num_codes_hr)}
        codes = pa.FixedSizeListArray.from_arrays(pa.array(self.codes.ravel(), pa.uint16()), num_codes)
        if self.codes_hr is None:
            high = pa.nulls(len(self.codes), fields["codes_hr"].type)
        else:
            width = num_codes_hr or self.codes_hr.shape[1]
            every, is_null = np.zeros((len(self.codes), width), np.uint16), np.ones(len(self.codes), bool)
            every[self.places_hr], is_null[self.places_hr] = self.codes_hr, False
            values, mask = pa.array(every.ravel(), pa.uint16()), pa.array(is_null)
            high = pa.FixedSizeListArray.from_arrays(values, width, mask=mask).cast(fields["codes_hr"].type)
        by_name = {name: table[name] for name in table.column_names} | {"codes": codes, "codes_hr": high}
        return pa.table([by_name[name] for name in fields], schema=pa.schema(list(fields.values())))

    @property
    def truncated_captions(self) -> int:
        """The number of captions that were cut."""
        truncated = pc.struct_field(pc.list_flatten(self.rows.table()["captions"]), "truncated")
        return int(pc.sum(truncated).as_py() or 0)


def write_encoded_rows(path: Path, parts: Sequence[EncodedRows], fingerprint: Fingerprint) -> None:
    """Writes a token shard of at least one part.

    Values of a pass-through column that have no common type are written as JSON text.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    num_codes, num_codes_hr = fingerprint.num_codes, fingerprint.num_codes_hr
    table = pa.concat_tables([part.table(num_codes, num_codes_hr) for part in parts]).combine_chunks()
    others = [row for part in parts for row in part.rows.others]
    for name in sorted({name for row in others for name in row}):
        table = table.append_column(name, pass_through_column([row.get(name) for row in others]))
    digest = hashlib.sha256()
    for part in parts:
        for content in part.content():
            digest.update(content)
    metadata = {VERSION_KEY: str(SCHEMA_VERSION).encode(), FINGERPRINT_KEY: fingerprint.to_json().encode()}
    metadata[CONTENT_KEY] = digest.hexdigest().encode()
    pq.write_table(table.replace_schema_metadata(metadata), path, compression="zstd")


def write_token_shard(path: Path, rows: list[dict[str, Any]], fingerprint: Fingerprint) -> None:
    """Writes rows (dicts with the table's columns and pass-through ones)."""
    codes = np.array([row["codes"] for row in rows], np.uint16).reshape(len(rows), fingerprint.num_codes)
    places = [place for place, row in enumerate(rows) if row.get("codes_hr") is not None]
    high = np.array([rows[place]["codes_hr"] for place in places], np.uint16) if places else None
    write_encoded_rows(path, [EncodedRows(pack_rows(rows), codes, high, places)], fingerprint)


def pass_through_column(values: list[Any]) -> pa.Array:
    try:
        array = pa.array(values)
        if not pa.types.is_nested(array.type):
            return array
    except (pa.ArrowException, OverflowError, UnicodeError):  # mixed types, integers beyond 64 bits, or lone surrogates
        pass
    texts = [None if value is None else json.dumps(value, ensure_ascii=False, default=str) for value in values]
    return pa.array([None if text is None else readable(text) for text in texts], pa.string())
