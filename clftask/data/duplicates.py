"""Equal texts in labelled tables: how many, in which splits, with which labels.

`inspect JOB --data` looks for them. The data report of a training has only the share of texts that
also occur in train (`DataReport.describe`), which takes less time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clftask.components.labels import LabelSpace
from clftask.messages import are, counted

NUM_EXAMPLES, NUM_CHARS = 5, 120


@dataclass(frozen=True)
class Example:
    """A text whose rows differ in their labels.

    Attributes:
        text: Its beginning.
        rows: The number of its rows.
        labels: The labels of these rows, each set once.
    """

    text: str
    rows: int
    labels: list[list[str]]


@dataclass(frozen=True)
class Duplicates:
    """Texts that are equal character by character; of pairs, both texts.

    Attributes:
        texts: Number of texts that occur in several rows.
        rows: Number of these rows.
        across_splits: Number of texts that occur in several splits.
        conflicting: Number of texts whose rows differ in their labels.
        examples: Some conflicting texts.
    """

    texts: int = 0
    rows: int = 0
    across_splits: int = 0
    conflicting: int = 0
    examples: list[Example] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the warnings."""
        found = []
        if self.texts:
            what = f"{counted(self.texts, 'text')} {'occurs' if self.texts == 1 else 'occur'}"
            found.append(f"warning: {what} in several rows ({counted(self.rows, 'row')})")
        if self.across_splits:
            what = f"{counted(self.across_splits, 'text')} {are(self.across_splits)}"
            found.append(f"warning: {what} in several splits: the metrics may be too high")
        if self.conflicting:
            what = f"{counted(self.conflicting, 'text')} {are(self.conflicting)}"
            found.append(f"warning: {what} labelled differently in different rows")
        for example in self.examples:
            labels = " / ".join(", ".join(names) or "nothing" for names in example.labels)
            found.append(f"  {example.text!r}: {labels}")
        return found


def find_duplicates(tables: Mapping[str, pa.Table], space: LabelSpace) -> Duplicates:
    """Find equal texts.

    Args:
        tables: For each split: text, text_pair (optional), labels (list of codes).
        space: The labels.
    """
    names = [n for n in ("text", "text_pair", "labels") if n in tables["train"].column_names]
    whole = pa.concat_tables([table.select(names) for table in tables.values()])
    split = np.repeat(np.arange(len(tables)), [table.num_rows for table in tables.values()])
    text = _numbered(whole.select(names[:-1]))
    labels = _label_sets(whole["labels"].combine_chunks())
    num_rows = np.bincount(text)
    repeated = num_rows > 1
    conflicting = _distinct(text, labels) > 1
    examples = [
        _example(whole, np.flatnonzero(text == number), space)
        for number in np.flatnonzero(conflicting)[:NUM_EXAMPLES]
    ]
    return Duplicates(
        texts=int(repeated.sum()),
        rows=int(num_rows[repeated].sum()),
        across_splits=int((_distinct(text, split) > 1).sum()),
        conflicting=int(conflicting.sum()),
        examples=examples,
    )


def _numbered(columns: pa.Table) -> Any:
    """Return (rows,) int64: a number for each distinct row."""
    numbers = np.zeros(columns.num_rows, np.int64)
    for column in columns.columns:
        codes = column.combine_chunks().dictionary_encode().indices.to_numpy()
        pairs = numbers * (int(codes.max(initial=0)) + 1) + codes
        numbers = np.unique(pairs, return_inverse=True)[1]
    return numbers


def _label_sets(labels: pa.ListArray) -> Any:
    """Return (rows,) a number for each row's set of labels."""
    lengths = pc.list_value_length(labels).to_numpy()
    rows, codes = np.repeat(np.arange(len(labels)), lengths), labels.flatten().to_numpy()
    ordered = pa.array(codes[np.lexsort((codes, rows))]).cast(pa.string())
    ends = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    lists = pa.LargeListArray.from_arrays(ends, ordered)
    return pc.binary_join(lists, " ").dictionary_encode().indices.to_numpy()


def _distinct(groups: Any, values: Any) -> Any:
    """Return (groups,) the number of distinct values in each group."""
    width = int(values.max()) + 1
    return np.bincount(np.unique(groups * width + values) // width)


def _example(whole: pa.Table, rows: Any, space: LabelSpace) -> Example:
    part = whole.take(pa.array(rows))
    sets = {tuple(sorted(codes)) for codes in part["labels"].to_pylist()}
    text = " ".join(part["text"][0].as_py()[: 2 * NUM_CHARS].split())[:NUM_CHARS]
    return Example(text, len(rows), [space.decode(codes) for codes in sorted(sets)])
