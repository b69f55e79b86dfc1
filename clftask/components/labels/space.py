"""Label spaces: encode and decode label names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clftask.components.labels.base import LabelColumns, Task
from clftask.components.labels.cells import matches, rows_of_items, with_items, without_repetitions
from clftask.errors import DataError, Problem
from clftask.messages import counted


@dataclass(frozen=True)
class LabelSpace:
    """Label names in the order of the logits, and the positive class, if there is one."""

    task: Task
    names: tuple[str, ...]
    positive: str | None = None

    @property
    def positive_index(self) -> int | None:
        """The index of the positive class."""
        return None if self.positive is None else self.names.index(self.positive)

    @classmethod
    def from_lists(cls, spec: LabelColumns, train: pa.ListArray) -> LabelSpace:
        """Build the space from the labels of the train rows only.

        Fixed names stay without rows, too, unless `min_count` is above 1.

        Raises:
            DataError: Fewer than two labels remain.
        """
        fixed = spec.fixed_names
        counts: Counter[str] = Counter()
        found = _counts(train.flatten())
        same = {} if fixed is None else matches(found, fixed)
        for name, count in found.items():
            counts[same.get(name, name)] += count
        frequent = {name for name, count in counts.items() if count >= spec.min_count}
        names = _sorted(frequent) if fixed is None else list(fixed)
        if spec.min_count > 1:
            names = [name for name in names if name in frequent]
        if len(frequent.intersection(names)) < 2 and not spec.is_soft:
            rows = counted(spec.min_count, "row")
            allowed = f"train must have two or more labels with {rows} or more each"
            allowed += "" if fixed is None else f", of {', '.join(fixed[:5])}"
            remedy = "Check the column" + ("" if fixed is None else " and names")
            remedy += ", or lower min_count." if spec.min_count > 1 else "."
            raise DataError(Problem("data.labels", sorted(counts)[:5], allowed, remedy))
        return cls(spec.task, tuple(names), spec.positive)

    def encode(self, lists: pa.ListArray) -> pa.ListArray:
        """Return (rows,) list<int32>: label indices; labels outside the space are dropped."""
        flat = lists.flatten().dictionary_encode()
        found = flat.dictionary.to_pylist()
        same, places = matches(found, self.names), {n: i for i, n in enumerate(self.names)}
        codes = pa.array([places[same[n]] if n in same else None for n in found], pa.int32())
        return without_repetitions(with_items(lists, codes.take(flat.indices)))

    def known(self, lists: pa.ListArray) -> pa.ListArray:
        """Return (rows,) list<string>: the labels of the space only."""
        codes = self.encode(lists)
        names = pa.array(self.names, pa.string()).take(codes.flatten())
        return with_items(codes, names)

    def decode(self, codes: Sequence[int]) -> list[str]:
        """Return the names of label indices."""
        return [self.names[code] for code in codes]

    def unknown(self, lists: pa.ListArray) -> dict[str, int]:
        """Count the labels outside the space."""
        counts = _counts(lists.flatten())
        same = matches(counts, self.names)
        return {name: count for name, count in counts.items() if name not in same}


def multi_hot(codes: pa.ListArray, num_labels: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return (rows, labels) float32 of 0 and 1 from lists of label indices."""
    matrix = np.zeros((len(codes), num_labels), np.float32)
    matrix[rows_of_items(codes), codes.flatten().to_numpy()] = 1.0
    return matrix


def _counts(flat: pa.Array) -> dict[str, int]:
    return {str(c["values"]): c["counts"] for c in pc.value_counts(flat).tolist()}


def _sorted(names: set[str]) -> list[str]:
    """Sort names; by value if all are numbers."""
    is_numeric = all(re.fullmatch(r"-?\d+(\.\d+)?", name) for name in names)
    return sorted(names, key=lambda n: (Decimal(n), n)) if is_numeric else sorted(names)
