"""Warnings on labels that are probably one label, or none."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clftask.components.labels import LabelColumns
from clftask.data.readers.base import FILE, ROW
from clftask.messages import counted

NUM_SHOWN = 5  # warnings of one kind
_WHOLE = re.compile(r"^(-?\d+)(?:\.0*)?$")  # pandas writes 1.0 in a column with missing cells
_DELIMITERS = (";", "|", ",", "\t")
FEW_ROWS, SMALL_SHARE = 5, 0.05
# Missing values as pandas, NumPy, R and SQL print them. Words of the second set are labels, too.
_MISSING = {"nan", "<na>", "nat", "null", "#n/a", "undefined", "\\n"}
_PERHAPS_MISSING = {"none", "na", "n/a", "-", "?"}


def label_warnings(labels: LabelColumns, table: pa.Table, known: Sequence[str] = ()) -> list[str]:
    """Return warnings on similar labels, on headers among the rows, and on missing values.

    Args:
        labels: The label columns.
        table: labels (list of names), `_file` and `_row`.
        known: Labels of a bundle, which may have no row.
    """
    lists = table["labels"].combine_chunks()
    found = pc.value_counts(lists.flatten()).to_pylist()
    counts = {**dict.fromkeys(known, 0), **{c["values"]: c["counts"] for c in found}}
    few = max(FEW_ROWS, SMALL_SHARE * table.num_rows)
    suspects = {name for name, count in counts.items() if 0 < count <= few} - set(known)
    lines = [*_similar(counts, set(known)), *_undivided(labels, lists, counts)]
    column = str(getattr(labels, "column", None) or "").strip().casefold()
    for name, count in counts.items():
        if name in suspects and name.strip().casefold() == column:
            lines.append(
                f"label {name!r} ({counted(count, 'row')}) is the name of its column: "
                f"remove the header among the rows, first at {_place(table, lists, name)}"
            )
        word = name.strip().lower()
        if count and (word in _MISSING or (word in _PERHAPS_MISSING and name in suspects)):
            lines.append(
                f"label {name!r} ({counted(count, 'row')}) looks like a missing value, "
                f"first at {_place(table, lists, name)}: leave such cells empty if it is one"
            )
    return lines


def _undivided(labels: LabelColumns, lists: pa.ListArray, counts: Mapping[str, int]) -> list[str]:
    """Return a warning if labels contain a usual delimiter, and probably are several labels.

    Marks such as `;` are usual in names: they count only if no row has two labels.
    """
    delimiter = str(getattr(labels, "delimiter", ""))
    if not delimiter:
        return []
    is_divided = (pc.max(pc.list_value_length(lists)).as_py() or 0) > 1
    marks = {delimiter.strip()} if is_divided else {*_DELIMITERS, delimiter.strip()}
    for mark in sorted(marks - {delimiter, ""}):
        if names := [name for name in counts if mark in name and counts[name]]:
            number = f"{counted(len(names), 'label')} with {mark!r}, such as {names[0]!r}"
            return [f"{number}, divided only at {delimiter!r}: check data.labels.delimiter"]
    return []


def _similar(counts: Mapping[str, int], known: set[str]) -> list[str]:
    """Return a line for each group of labels that differ only in blanks, case or Unicode form.

    Groups of labels that are all known are left out.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for name in counts:
        groups[_normalised(name)].append(name)
    similar = [names for names in groups.values() if len(names) > 1 and set(names) - known]
    lines: list[str] = []
    for names in similar[:NUM_SHOWN]:
        composed = {unicodedata.normalize("NFC", name) for name in names}
        show = repr if len(composed) == len(names) else ascii  # forms of one character look alike
        shown = ", ".join(f"{show(n)} ({counted(counts[n], 'row')})" for n in names)
        is_number = all(_WHOLE.fullmatch(name) for name in names)
        form = "the form of a number" if is_number else "blanks, case or Unicode form"
        lines.append(f"labels that differ only in {form}: {shown}")
    if len(similar) > NUM_SHOWN:
        lines.append(f"and {len(similar) - NUM_SHOWN} more groups of such labels")
    if similar:
        lines[-1] += "; if they are one label, correct them or map them to one in data.labels.names"
    return lines


def _normalised(name: str) -> str:
    text = unicodedata.normalize("NFKC", name)
    text = _WHOLE.sub(r"\1", text)
    visible = "".join(" " if c.isspace() else c for c in text if unicodedata.category(c) != "Cf")
    return unicodedata.normalize("NFKC", " ".join(visible.split()).casefold())


def _place(table: pa.Table, lists: pa.ListArray, name: str) -> str:
    at = pc.index(lists.flatten(), name).as_py()
    ends = np.cumsum(pc.fill_null(pc.list_value_length(lists), 0))
    row = int(np.searchsorted(ends, at, side="right"))
    return f"{table[FILE][row].as_py()}, row {table[ROW][row].as_py()}"
