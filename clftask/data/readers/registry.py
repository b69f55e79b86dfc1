"""All formats, and the selection of the format for a path."""

from __future__ import annotations

import re

from clftask.data.readers.arrow import Arrow, Parquet
from clftask.data.readers.base import Source
from clftask.data.readers.csv import Csv, Tsv
from clftask.data.readers.hf_datasets import (
    HUB,
    Saved,
    is_saved,
    load_hub,
    load_saved,
    load_split,
)
from clftask.data.readers.jsonl import JsonLines
from clftask.data.readers.text_encoding import COMPRESSED
from clftask.data.readers.whole_files import Excel, Sas, Spss, Stata, split_sheet
from clftask.errors import DataError, Problem
from clftask.io import filesystems, listing

SOURCES: tuple[type[Source], ...] = (
    Csv, Tsv, JsonLines, Parquet, Arrow, Excel, Stata, Spss, Sas
)  # fmt: skip

_ARCHIVES = (".zip", ".xz", ".7z", ".tar", ".tgz", ".tar.gz", ".rar")


def open_source(path: str, field: str) -> dict[str, Source]:
    """Open the source at a path.

    Args:
        path: File, folder, glob, Excel file with `#sheet`, saved datasets folder or
            `hub:owner/name[@config]`.
        field: The job file's field, for messages.

    Returns:
        `{"train": source}`, or one source for each split of a saved or hub dataset.

    Raises:
        DataError: No file matches, or the files have no supported format.
    """
    if path.startswith(HUB):
        return load_hub(path, field)
    if is_saved(path):
        return load_saved(path)
    path, sheet = split_sheet(path)
    files = [file + sheet for file in listing.expand(path)]
    if not files:
        raise DataError(Problem(field, path, "no file found", "Check the path."))
    known = {file: _format_of(file) for file in files}
    readable = [f for f in files if known[f]]
    formats = {known[f] for f in readable}
    if len(formats) != 1 or (len(readable) < len(files) and len(files) == 1):
        suffixes = [s for source in SOURCES for s in source.suffixes if not s.endswith(COMPRESSED)]
        allowed = f"must be files of one format: {', '.join(suffixes)}"
        allowed += f"; text also compressed: {', '.join(COMPRESSED)}"
        found = sorted({re.sub(r".*/[^.]*", "", f) for f in files})[:5]
        is_packed = any(f.lower().endswith(_ARCHIVES) for f in files)
        remedy = "Unpack it, or compress it with gzip, bzip2 or zstd." if is_packed else ""
        if len(formats - {None}) > 1:
            ending = min(re.sub(r".*/[^.]*", "", file) for file in readable)
            remedy = f"Select the files of one format, for example with a glob such as *{ending}."
        raise DataError(Problem(field, found, allowed, remedy))
    source = formats.pop()
    assert source is not None
    return {"train": source(readable, [f for f in files if not known[f]])}


def open_split(path: str, wanted: str | None) -> tuple[Source, str | None, list[str]]:
    """Open a table, or one split of a dataset that has several.

    Args:
        path: As for `open_source`.
        wanted: The split; None: test, or else the first one.

    Returns:
        The source, the name of its split and those of the others, if there are splits.

    Raises:
        DataError: The table has no such split, or cannot be opened.
    """
    place = path if path.startswith(HUB) else filesystems.absolute(path)
    available = open_source(place, "table")
    first = next(iter(available.values()))
    if not isinstance(first, Saved) or first.files == [place]:
        if wanted is not None:
            raise DataError(Problem("--split", wanted, f"{path} has no splits", "Remove it."))
        return first, None, []
    # The reader names validation `validation`; the dataset may name it `dev`.
    named = {source.files[0].rpartition("/")[2]: source for source in available.values()}
    name = wanted or ("test" if "test" in named else next(iter(named)))
    if name not in named:
        allowed = f"must be a split of {path}: {', '.join(named)}"
        raise DataError(Problem("--split", wanted, allowed))
    return named[name], name, [other for other in named if other != name]


def open_file(file: str) -> Source:
    """Open one file of a source by its path.

    Raises:
        DataError: The file has no supported format, or cannot be loaded.
    """
    kind = _format_of(file)
    if kind is not None and not file.startswith(HUB):
        return kind([file])
    return load_split(file)


def _format_of(file: str) -> type[Source] | None:
    path, _ = split_sheet(file)
    return next((s for s in SOURCES if path.lower().endswith(s.suffixes)), None)
