"""Hashes of the texts that a bundle was trained on, to recognise them in another table.

A table of `text_hash` (uint64) and `split`, 8 bytes a row. The hashes are not salted: whoever has
the file can test whether a given text was used. It can be deleted from a bundle.
"""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from clftask.errors import DataError, Problem
from clftask.messages import counted

NAME = "training_rows.parquet"
HASH = "text_hash"
DECISION = "decision"  # the part that `decide` fitted a decision on
_PARTS = ("train", "validation", DECISION)
_PAIR = "\x1f"


def text_hashes(table: pa.Table) -> pa.Array:
    """Return the (rows,) uint64 hashes of a table's text, or of its text and text_pair.

    Case, white space and Unicode compatibility forms do not matter.
    """
    texts = [table[n].to_pylist() for n in ("text", "text_pair") if n in table.column_names]
    hashes = (_hash(_PAIR.join(map(_normalised, row))) for row in zip(*texts, strict=True))
    return pa.array(np.fromiter(hashes, np.uint64, table.num_rows))


def _normalised(text: str) -> str:
    whole = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return " ".join(whole.casefold().split())


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def write(folder: Path, rows: pa.Table) -> None:
    """Write the hashes of the training and validation rows into a bundle's local folder.

    Args:
        folder: The folder.
        rows: The columns text_hash and split; rows of other splits are left out.
    """
    used = rows.select([HASH, "split"]).filter(pc.is_in(rows["split"], pa.array(_PARTS)))
    distinct = used.group_by([HASH, "split"]).aggregate([]).sort_by(HASH)
    options: dict[str, Any] = {"use_dictionary": ["split"]}
    options["column_encoding"] = {HASH: "DELTA_BINARY_PACKED"}
    parquet.write_table(distinct, folder / NAME, **options)


def add_decided(old: Path, new: Path, rows: pa.Table) -> None:
    """Copy a bundle's hashes to another folder, with those of the rows of a new decision.

    Args:
        old: The folder of the old bundle; it may have no hashes.
        new: The folder of the new one.
        rows: The rows with their texts.
    """
    known = _read(old)
    if known is not None:
        kept = known.filter(pc.not_equal(known["split"], DECISION))
        parts = pa.array([DECISION] * rows.num_rows, pa.string())
        write(new, pa.concat_tables([kept, pa.table({HASH: text_hashes(rows), "split": parts})]))


def count_known(folder: Path, rows: pa.Table) -> dict[str, int]:
    """Return how many rows of a table a bundle was trained on, by split; empty if unknown.

    Args:
        folder: The bundle's local folder.
        rows: The columns text and, for pairs, text_pair.

    Raises:
        DataError: The file of hashes is damaged.
    """
    known, found = _read(folder), dict[str, int]()
    if known is None:
        return found
    left = text_hashes(rows).to_numpy()
    for part in _PARTS:
        own = known.filter(pc.equal(known["split"], part))[HASH].to_numpy()
        is_known = np.isin(left, own)
        found |= {part: int(is_known.sum())} if is_known.any() else {}
        left = left[~is_known]
    return found


def warning(known: dict[str, int], num_rows: int) -> str:
    """Return the warning about rows that a bundle was trained on.

    Args:
        known: Numbers of rows by split, at least one.
        num_rows: The number of all rows.
    """
    parts = ", ".join(f"{count:,} {part}" for part, count in known.items())
    rows = f"{sum(known.values()):,} of {counted(num_rows, 'row')}"
    were = "was" if sum(known.values()) == 1 else "were"
    used = f"{rows} {were} used to train the bundle ({parts})"
    return f"warning: {used}; metrics may be too high"


def _read(folder: Path) -> pa.Table | None:
    file = folder / NAME
    if not file.is_file():
        return None
    try:
        found = parquet.read_table(file)
        return found.select([HASH, "split"]).cast(_SCHEMA)
    except (pa.ArrowException, OSError, KeyError, ValueError):
        remedy = "Delete it; rows of the training data are then not recognised."
        raise DataError(Problem(str(file), None, "is damaged", remedy)) from None


_SCHEMA = pa.schema([(HASH, pa.uint64()), ("split", pa.string())])
