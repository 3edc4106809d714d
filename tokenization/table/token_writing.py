"""Writes token shards. Rows are packed where they are made, so that little is left to do for whoever writes a shard."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tokenization.table.pass_through import ColumnTypes, as_column
from tokenization.table.token_table import (
    CONTENT_KEY,
    FINGERPRINT_KEY,
    OWN_COLUMNS,
    SCHEMA_VERSION,
    VERSION_KEY,
    Fingerprint,
    columns,
)

GROUP_ROWS = 1 << 14
"""Rows of a row group, up to one part more."""
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


def write_encoded_rows(path: Path, parts: Iterable[EncodedRows], fingerprint: Fingerprint) -> None:
    """Writes a token shard of at least one part, in row groups of `GROUP_ROWS`: no more rows are in memory at once.

    Values of a pass-through column that have no common type are written as JSON text.

    Args:
        path: the file.
        parts: iterated three times at most.
        fingerprint: of the tokens.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    num_codes, num_codes_hr = fingerprint.num_codes, fingerprint.num_codes_hr
    digest, types = hashlib.sha256(), ColumnTypes()
    for group in groups_of(parts):
        for part in group:
            for content in part.content():
                digest.update(content)
        types.add(others_of(group))
    settled = types.settled(map(others_of, groups_of(parts)))
    metadata = {VERSION_KEY: str(SCHEMA_VERSION).encode(), FINGERPRINT_KEY: fingerprint.to_json().encode()}
    metadata[CONTENT_KEY] = digest.hexdigest().encode()
    others = [pa.field(name, kind or pa.string()) for name, kind in settled.items()]
    schema = pa.schema([*columns(num_codes, num_codes_hr), *others], metadata)
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        for group in groups_of(parts):
            table = pa.concat_tables([part.table(num_codes, num_codes_hr) for part in group]).combine_chunks()
            rows = others_of(group)
            for name, kind in settled.items():
                table = table.append_column(name, as_column([row.get(name) for row in rows], kind))
            file.write_table(table.replace_schema_metadata(metadata))


def groups_of(parts: Iterable[EncodedRows]) -> Iterator[list[EncodedRows]]:
    """Joins parts to row groups. A group ends with the part that reaches `GROUP_ROWS`."""
    group, rows = list[EncodedRows](), 0
    for part in parts:
        group.append(part)
        rows += len(part.codes)
        if rows >= GROUP_ROWS:
            yield group
            group, rows = [], 0
    if group:
        yield group


def others_of(group: list[EncodedRows]) -> list[dict[str, Any]]:
    """The pass-through columns of a group's rows."""
    return [row for part in group for row in part.rows.others]


def write_token_shard(path: Path, rows: list[dict[str, Any]], fingerprint: Fingerprint) -> None:
    """Writes rows (dicts with the table's columns and pass-through ones)."""
    codes = np.array([row["codes"] for row in rows], np.uint16).reshape(len(rows), fingerprint.num_codes)
    places = [place for place, row in enumerate(rows) if row.get("codes_hr") is not None]
    high = np.array([rows[place]["codes_hr"] for place in places], np.uint16) if places else None
    write_encoded_rows(path, [EncodedRows(pack_rows(rows), codes, high, places)], fingerprint)
