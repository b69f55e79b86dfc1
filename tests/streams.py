"""Tables of every format, and streams of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import ipc

from clftask.data.readers.base import Source, Survey
from clftask.data.readers.cells import BAD
from clftask.data.readers.registry import open_source
from clftask.errors import DataError, Problem

TEXTS = ["plain", 'say "hi", ok', "two\nlines", "tab\there", "naïve 東京 🙂", None, "007"]
COLUMNS: dict[str, list[Any]] = {
    "text": TEXTS,
    "id": ["1", "02", "3", "4", "5", "6", "7"],
    "n": [3, None, -1, 0, 9007199254740993, 2, 1],
    "x": [0.5, None, 2.0, -1e-7, 3.25, 1e300, 7.0],
    "ok": [True, False, None, True, True, False, False],
    "code": ["007", "12", None, "1", "+1", "1 ", "x"],
    "void": [None] * 7,
}


TAGS = [["a", "b"], [], None, ["c"], ["é"], ["d", None], []]
KINDS = {
    "text": pa.string(),
    "id": pa.string(),
    "n": pa.int64(),
    "x": pa.float64(),
    "ok": pa.bool_(),
    "code": pa.string(),
    "void": pa.null(),
}


TABLE = pa.table({n: pa.array(v, KINDS[n]) for n, v in COLUMNS.items()} | {"tags": TAGS})
STRINGS = ["text", "id"]


def opened(path: Path | str) -> tuple[Source, str]:
    (source,) = open_source(str(path), "input.path").values()
    (file,) = source.files
    return source, file


def survey(path: Path | str, columns: Iterable[str], strings: Iterable[str] = STRINGS) -> Survey:
    source, file = opened(path)
    return source.survey(file, columns, strings)


def stream(path: Path | str, schema: pa.Schema, **options: Any) -> pa.Table:
    """All batches, put together; each is checked for its size and columns."""
    source, file = opened(path)
    batches = list(source.batches(file, schema, **options))
    assert all(0 < batch.num_rows <= options.get("num_rows", 8192) for batch in batches)
    assert all(batch.schema.names == [*schema.names, BAD] for batch in batches)
    return pa.Table.from_batches(batches, pa.schema([*schema, pa.field(BAD, pa.string())]))


def refused(call: Callable[..., Any], *arguments: Any) -> Problem:
    with pytest.raises(DataError) as caught:
        call(*arguments)
    (problem,) = caught.value.problems
    return problem


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# ------------------------------------------------------------------ every format


def in_pieces(path: Path, sizes: list[int], opening: Callable[..., Any] = ipc.new_file) -> None:
    with pa.OSFile(str(path), "wb") as file, opening(file, TABLE.schema) as writer:
        start = 0
        for size in sizes:
            writer.write_table(TABLE.slice(start, size))
            start += size
    assert start == 7


# ------------------------------------------------------------------ bad rows

TEXT = pa.schema({"text": pa.string(), "n": pa.int64()})


NOT_UTF8 = "column text: bytes that are not UTF-8"
