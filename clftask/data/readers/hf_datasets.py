"""Readers of Hugging Face datasets: folders of `save_to_disk`, and datasets of the hub."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from clftask.data.readers.base import Source, Survey
from clftask.data.readers.cells import find_once
from clftask.errors import DataError, Problem
from clftask.io import filesystems, storage
from clftask.io.tempdirs import process_folder

HUB = "hub:"


class Saved(Source):
    """A loaded dataset: a saved folder, a split of a `DatasetDict`, or a split from the hub."""

    def __init__(self, path: str, dataset: Any) -> None:
        super().__init__([path])
        self.dataset = dataset

    def file_names(self, file: str) -> list[str]:
        """Return the features' names."""
        return list(self.dataset.column_names)

    def survey_file(self, file: str, columns: list[str], strings: set[str]) -> Survey:
        """Return the dataset's row count and types."""
        find_once(file, self.dataset.column_names, columns)
        stored = self._selected(columns)[:0].schema
        return Survey(len(self.dataset), self.pick(file, stored, columns, strings))

    def stream_file(
        self, file: str, schema: pa.Schema, start: int, num_rows: int, texts: frozenset[str]
    ) -> Iterator[pa.RecordBatch]:
        """Slice the memory-mapped dataset."""
        selected = self._selected(schema.names)
        for first in range(start, len(self.dataset), num_rows):
            table = selected[first : first + num_rows]
            table.validate(full=True)
            yield from table.combine_chunks().to_batches()

    def version(self, file: str) -> str:
        """Return the dataset's fingerprint."""
        return str(self.dataset._fingerprint)

    def _selected(self, columns: list[str]) -> Any:
        return self.dataset.select_columns(columns).with_format("arrow")


# ------------------------------------------------------------------ loading


def is_saved(path: str) -> bool:
    """Tell whether a path is a folder written by `save_to_disk` of datasets."""
    # A web server may ignore a path that is appended to a query and return the file itself.
    if filesystems.is_url(path) and "?" in path:
        return False
    markers = ("dataset_dict.json", "state.json")
    return any(storage.exists(storage.join(path, marker)) for marker in markers)


def load_saved(path: str) -> dict[str, Source]:
    """Load a saved folder.

    Raises:
        DataError: It is damaged.
    """
    return _splits(path, _load(path, _downloaded(path) if filesystems.is_url(path) else path))


def load_hub(path: str, field: str) -> dict[str, Source]:
    """Load `hub:owner/name[@config]`.

    Raises:
        DataError: The dataset cannot be loaded from the hub.
    """
    return _splits(path, _load_hub(path, field))


def load_split(path: str) -> Source:
    """Load the dataset for a file path of `Saved`: a folder without splits, or a hub split.

    Raises:
        DataError: The dataset is damaged, or cannot be loaded from the hub.
    """
    if path.startswith(HUB):
        whole, _, split = path.rpartition("/")
        return Saved(path, _load_hub(whole, path)[split])
    if not filesystems.is_url(path):
        return Saved(path, _load(path, path))
    version = storage.version(storage.join(path, "state.json"))
    return Saved(path, _load(path, _downloaded_once(path, version)))


def _load(path: str, folder: str) -> Any:
    import datasets

    try:
        found = datasets.load_from_disk(folder)
        for part in found.values() if isinstance(found, dict) else [found]:
            # With an indices mapping, datasets takes rows before `stream_file` validates them.
            if part._indices is not None:
                part.data.table.validate(full=True)
                part._indices.table.validate(full=True)
        return found
    except Exception as error:  # datasets raises many classes for damaged JSON files
        reason = " ".join(str(error).split())[:300]
        raise DataError(Problem(path, None, f"cannot be read: {reason}")) from None


def _load_hub(path: str, field: str) -> Any:
    import datasets

    name, _, config = path.removeprefix(HUB).partition("@")
    if not re.fullmatch(r"[\w.-]*\w[\w.-]*(/[\w.-]*\w[\w.-]*)?", name):
        raise DataError(Problem(field, path, "must be hub:owner/name or hub:owner/name@config"))
    try:
        return datasets.load_dataset(name, config or None)
    except Exception as error:  # huggingface_hub raises many unrelated classes
        reason = " ".join(str(error).split())[:300]
        remedy = "Check the name, the network and HF_TOKEN."
        raise DataError(Problem(field, path, f"cannot be loaded: {reason}", remedy)) from None


def _downloaded(path: str) -> str:
    folder = process_folder()
    storage.download(path, folder)
    return folder


@functools.lru_cache(maxsize=4)
def _downloaded_once(path: str, version: str) -> str:
    """Download a folder once per process; it is opened for each range of rows."""
    return _downloaded(path)


_ALIASES = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}


def _splits(path: str, loaded: Any) -> dict[str, Source]:
    if not isinstance(loaded, dict):
        return {"train": Saved(path, loaded)}
    known = {
        split: next((n for n in names if n in loaded), "") for split, names in _ALIASES.items()
    }
    chosen = {split: name for split, name in known.items() if name}
    chosen |= {name: name for name in loaded if name not in chosen.values()}
    return {split: Saved(storage.join(path, n), loaded[n]) for split, n in chosen.items()}
