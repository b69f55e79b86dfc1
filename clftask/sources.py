"""Tables in: one class a format, each knowing its files, its columns and how to read them.

To add a format: subclass `Source`, say which file names are its own, read columns into an
Arrow table, and put the class into `SOURCES`.
"""

from __future__ import annotations

import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from clftask import storage
from clftask.errors import ClftaskError, DataError, Problem

FILE, ROW = "_file", "_row"


class Source(ABC):
    """Files of one format that together are one table."""

    suffixes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, files: Sequence[str]) -> None:
        self.files = list(files)

    def names(self) -> list[str]:
        """Return the names of the columns of the first file."""
        file = self.files[0]
        found: list[str] = self._guarded(file, lambda: self.file_names(file))
        return found or _empty(file)

    def read(self, columns: Iterable[str], strings: Iterable[str] = ()) -> pa.Table:
        """Read columns of all files, and where each row comes from.

        Args:
            columns: What to read.
            strings: Those to be read as strings even where they look like numbers.

        Returns:
            The columns, `_file` (the path) and `_row` (0-based, int64).

        Raises:
            DataError: A file is damaged or lacks a column.
        """
        wanted, as_text = list(dict.fromkeys(columns)), set(strings)
        tables = [
            self._guarded(f, lambda f=f: self._read_one(f, wanted, as_text)) for f in self.files
        ]
        for file, table in zip(self.files, tables, strict=True):
            self._guarded(
                file,
                lambda t=table: pa.unify_schemas(
                    [tables[0].schema, t.schema], promote_options="permissive"
                ),
            )
        table = pa.concat_tables(tables, promote_options="permissive")
        return table if table.num_rows else _empty(self.files[0])

    def _read_one(self, file: str, columns: list[str], strings: set[str]) -> pa.Table:
        table = self.read_file(file, columns, strings).select(columns)
        table = pa.table({name: _plain(table.column(name)) for name in columns})
        origin = pa.DictionaryArray.from_arrays(
            pa.nulls(table.num_rows, pa.int32()).fill_null(0), [file]
        )
        rows = pa.array(range(table.num_rows), pa.int64())
        return table.append_column(FILE, origin).append_column(ROW, rows)

    def _guarded(self, file: str, call: Any) -> Any:
        try:
            return call()
        except ClftaskError:
            raise
        except KeyError as error:
            raise DataError(Problem(file, None, f"lacks the column {error}")) from None
        except (pa.ArrowException, ValueError, OSError) as error:
            reason = " ".join(str(error).split())[:300]
            raise DataError(Problem(file, None, f"cannot be read: {reason}")) from None

    @abstractmethod
    def file_names(self, file: str) -> list[str]:
        """Return the column names of one file."""

    @abstractmethod
    def read_file(self, file: str, columns: list[str], strings: set[str]) -> pa.Table:
        """Read columns of one file."""


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return dictionary-encoded and view columns as their plain types."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return column.cast(kind.value_type)
    return column.cast(pa.large_string()) if pa.types.is_string_view(kind) else column


def _empty(file: str) -> NoReturn:
    raise DataError(Problem(file, 0, "holds no row", "Check the path and the export."))


def _open(file: str) -> pa.NativeFile:
    fs, inner = storage.filesystem(file)
    return fs.open_input_stream(inner, compression="gzip" if file.endswith(".gz") else None)


def _read_text(file: str) -> bytes:
    with storage.mendable(file), _open(file) as stream:
        return bytes(stream.read())


def detect_encoding(data: bytes) -> str:
    """Name a text file's encoding: by its byte order mark, as UTF-8, else by its statistics."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        import charset_normalizer

        matches = charset_normalizer.from_bytes(data[:1_000_000])
        best = matches.best()
        # Its rivals for western text (cp1250, cp1257) score as well, and are rarer.
        is_western = any("cp1252" in match.could_be_from_charset for match in matches)
        return best.encoding if best and not is_western else "cp1252"
    return "utf-8"


class Csv(Source):
    """Comma-separated values with a header; quoted newlines, BOMs and other encodings survive."""

    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".csv.gz")
    delimiter = ","

    def _reading(self, file: str) -> dict[str, Any]:
        """Return the file's text as UTF-8, and how Arrow shall read it."""
        from pyarrow import csv

        data = _read_text(file)
        if not data.strip():
            _empty(file)
        encoding = detect_encoding(data)
        if encoding not in ("utf-8", "ascii"):
            data = data.decode(encoding, errors="strict").removeprefix("\ufeff").encode()
        size = min(max(1 << 20, _longest(data)), (1 << 31) - 1)
        return {
            "input_file": pa.BufferReader(data),
            "read_options": csv.ReadOptions(block_size=size),
            "parse_options": csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
        }

    def file_names(self, file: str) -> list[str]:
        """Read the first block alone: the same parser for the names and the rows."""
        from pyarrow import csv

        with csv.open_csv(**self._reading(file)) as reader:
            return list(reader.schema.names)

    def read_file(self, file: str, columns: list[str], strings: set[str]) -> pa.Table:
        """Parse with Arrow, in parallel; types are inferred but for `strings`."""
        from pyarrow import csv

        types = {name: pa.string() for name in strings}
        options = csv.ConvertOptions(include_columns=columns, column_types=types)
        return csv.read_csv(**self._reading(file), convert_options=options)


def _longest(data: bytes) -> int:
    """Return a block size that no row exceeds: the whole where a quoted text may be long."""
    return len(data) if b'"' in data else 1 << 20


class Tsv(Csv):
    """Tab-separated values."""

    suffixes = (".tsv", ".tsv.gz", ".tab")
    delimiter = "\t"


class JsonLines(Source):
    """One JSON object a line."""

    suffixes = (".jsonl", ".ndjson", ".json", ".jsonl.gz")

    def _parse(self, file: str) -> pa.Table:
        from pyarrow import json

        data = _read_text(file)
        if (encoding := detect_encoding(data)) != "utf-8":
            data = data.decode(encoding).encode()
        data = data.removeprefix(b"\xef\xbb\xbf")
        if not data.strip():
            return _empty(file)
        size = min(max(1 << 20, len(data)), (1 << 31) - 1)
        return json.read_json(pa.BufferReader(data), json.ReadOptions(block_size=size))

    def file_names(self, file: str) -> list[str]:
        """Parse the file: any line may bring a new name."""
        return list(self._parse(file).column_names)

    def read_file(self, file: str, columns: list[str], strings: set[str]) -> pa.Table:
        """Parse with Arrow; numbers in `strings` become text."""
        table = self._parse(file)
        return pa.table(
            {n: _as_text(table.column(n)) if n in strings else table.column(n) for n in columns}
        )


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    is_scalar = pa.types.is_primitive(kind) and not pa.types.is_temporal(kind)
    return column.cast(pa.string()) if is_scalar else column


class Parquet(Source):
    """Parquet: only the columns that are asked for are read."""

    suffixes = (".parquet", ".pq")

    def file_names(self, file: str) -> list[str]:
        """Read the footer alone."""
        from pyarrow import parquet

        fs, inner = storage.filesystem(file)
        return list(parquet.read_schema(inner, filesystem=fs).names)

    def read_file(self, file: str, columns: list[str], strings: set[str]) -> pa.Table:
        """Read columns in parallel."""
        from pyarrow import parquet

        fs, inner = storage.filesystem(file)
        return parquet.ParquetFile(fs.open_input_file(inner)).read(columns)


class Arrow(Source):
    """Feather, and Arrow's file and stream formats."""

    suffixes = (".feather", ".arrow", ".ipc")

    def _table(self, file: str) -> pa.Table:
        from pyarrow import feather, ipc

        data = pa.py_buffer(storage.read_bytes(file))
        if data.size >= 4 and data[:4].to_pybytes() == b"FEA1":
            return feather.read_table(pa.BufferReader(data))
        try:
            return ipc.open_file(data).read_all()
        except pa.ArrowInvalid:
            return ipc.open_stream(data).read_all()

    def file_names(self, file: str) -> list[str]:
        """Read the file: its schema stands beside its data."""
        return list(self._table(file).column_names)

    def read_file(self, file: str, columns: list[str], strings: set[str]) -> pa.Table:
        """Select columns of the file."""
        return self._table(file).select(columns)


class Saved(Source):
    """A `datasets` folder, a split of a `DatasetDict`, or one of the hub; already loaded."""

    def __init__(self, path: str, dataset: Any) -> None:
        super().__init__([path])
        self.dataset = dataset

    def file_names(self, file: str) -> list[str]:
        """Return the features' names."""
        return list(self.dataset.column_names)

    def read_file(self, file: str, columns: list[str], strings: set[str]) -> pa.Table:
        """Select columns; class labels come out as their names."""
        chosen = self.dataset.select_columns(columns).with_format("arrow")
        table = chosen[:]
        return pa.table({n: _named(self.dataset.features[n], table.column(n)) for n in columns})


def _named(feature: Any, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Turn the ints of a ClassLabel, or of a list of them, into names."""
    inner = getattr(feature, "feature", None)
    names = getattr(inner if inner is not None else feature, "names", None)
    if names is None:
        return column
    values = column.combine_chunks()
    if inner is None:
        return pa.chunked_array([_take_names(names, values)])
    flat = _take_names(names, values.flatten())
    lengths = pc.fill_null(pc.list_value_length(values), 0)
    offsets = pa.concat_arrays(
        [pa.array([0], pa.int64()), pc.cumulative_sum(lengths).cast(pa.int64())]
    )
    mask = values.is_null() if values.null_count else None
    return pa.chunked_array([pa.LargeListArray.from_arrays(offsets, flat, mask=mask)])


def _take_names(names: list[str], codes: pa.Array) -> pa.Array:
    codes = pc.if_else(pc.less(codes, 0), None, codes)  # -1 is "unlabelled" in datasets
    return pa.array(names, pa.string()).take(codes)


SOURCES: tuple[type[Source], ...] = (Csv, Tsv, JsonLines, Parquet, Arrow)


def open_source(path: str, field: str) -> dict[str, Source]:
    """Open what a path stands for.

    Args:
        path: File, folder, glob, saved datasets folder or `hub:owner/name[@config]`.
        field: The job file's field, for messages.

    Returns:
        `{"train": source}`, or one source for each split that the data itself knows.

    Raises:
        DataError: Nothing is there, or nothing that is read here.
    """
    if path.startswith("hub:"):
        return _hub(path, field)
    if _is_saved(path):
        return _saved(path)
    files = storage.expand(path)
    if not files:
        raise DataError(Problem(field, path, "no file is there", "Check the path."))
    known = {file: _format_of(file) for file in files}
    readable = [f for f in files if known[f]]
    formats = {known[f] for f in readable}
    if len(formats) != 1 or (len(readable) < len(files) and len(files) == 1):
        suffixes = ", ".join(s for source in SOURCES for s in source.suffixes)
        found = sorted({re.sub(r".*/[^.]*", "", f) for f in files})[:5]
        raise DataError(Problem(field, found, f"must be files of one of {suffixes}"))
    source = formats.pop()
    assert source is not None
    return {"train": source(readable)}


def _format_of(file: str) -> type[Source] | None:
    return next((s for s in SOURCES if file.lower().endswith(s.suffixes)), None)


def _is_saved(path: str) -> bool:
    markers = ("dataset_dict.json", "state.json")
    return any(storage.exists(storage.join(path, marker)) for marker in markers)


def _saved(path: str) -> dict[str, Source]:
    import datasets

    folder = path
    if storage.is_url(path):
        folder = tempfile.mkdtemp(prefix="clftask-dataset-")
        storage.download(path, folder)
    try:
        return _splits(path, datasets.load_from_disk(folder))
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(Problem(path, None, f"cannot be read: {reason}")) from None


def _hub(path: str, field: str) -> dict[str, Source]:
    import datasets

    name, _, config = path.removeprefix("hub:").partition("@")
    try:
        return _splits(path, datasets.load_dataset(name, config or None))
    except Exception as error:  # the hub's client raises a zoo of classes
        reason = " ".join(str(error).split())[:300]
        remedy = "Check the name, the network and HF_TOKEN."
        raise DataError(Problem(field, path, f"cannot be loaded: {reason}", remedy)) from None


_ALIASES = {"validation": ("validation", "valid", "val", "dev"), "test": ("test",)}


def _splits(path: str, loaded: Any) -> dict[str, Source]:
    if not isinstance(loaded, dict):
        return {"train": Saved(path, loaded)}
    found: dict[str, Source] = {}
    for split, names in {"train": ("train",), **_ALIASES}.items():
        name = next((n for n in names if n in loaded), None)
        if name is not None:
            found[split] = Saved(storage.join(path, name), loaded[name])
    if "train" not in found:
        raise DataError(Problem(path, sorted(loaded), "has no split named train"))
    return found
