"""The data report: counts, token lengths and warnings, printed before training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clftask.components.labels import LabelSpace
from clftask.messages import counted


@dataclass
class DataReport:
    """Counts by split, filled while the data is prepared."""

    files_left_out: list[str] = field(default_factory=list)
    label_warnings: list[str] = field(default_factory=list)
    num_without_text: int = 0
    num_without_label: int = 0
    num_empty: int = 0
    num_without_known_label: dict[str, int] = field(default_factory=dict)
    unknown_labels: dict[str, dict[str, int]] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    label_counts: dict[str, dict[str, int]] = field(default_factory=dict)
    labels_per_row: float = 0.0
    duplicates: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, dict[str, float]] = field(default_factory=dict)
    split_read: str | None = None  # of the splits of a dataset, for evaluate
    other_splits: list[str] = field(default_factory=list)

    def describe(self, tables: dict[str, pa.Table], space: LabelSpace) -> None:
        """Fill in row counts, label counts and the share of texts that also occur in train."""
        for split, table in tables.items():
            self.rows[split] = table.num_rows
            codes = table["labels"].combine_chunks().flatten().to_numpy()
            counts = np.bincount(codes, minlength=len(space.names))
            self.label_counts[split] = dict(zip(space.names, counts.tolist(), strict=True))
        train = tables["train"]
        self.labels_per_row = sum(self.label_counts["train"].values()) / train.num_rows
        for split in tables.keys() - {"train"}:
            again = pc.is_in(tables[split]["text"], pc.unique(train["text"]))
            self.duplicates[split] = (pc.sum(again).as_py() or 0) / tables[split].num_rows

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return dict(vars(self))

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        return [*self._row_lines(), *self._label_lines(), *self._token_lines(), *self.warnings()]

    def _row_lines(self) -> list[str]:
        parts = ", ".join(f"{n:,} {split}" for split, n in self.rows.items())
        return [f"rows: {parts}"]

    def _label_lines(self) -> list[str]:
        counts = sorted(self.label_counts["train"].items(), key=lambda c: -c[1])
        shown = counts if len(counts) <= 12 else counts[:6]
        lines = [f"labels: {len(counts)}, {self.labels_per_row:.2f} a row"]
        lines.append("  most frequent: " + ", ".join(f"{n} {c:,}" for n, c in shown))
        if len(counts) > 12:
            lines.append("  rarest: " + ", ".join(f"{n} {c:,}" for n, c in counts[-6:]))
        return lines

    def _token_lines(self) -> list[str]:
        return [
            f"tokens ({split}): median {t['median']:.0f}, 95 % {t['p95']:.0f}, "
            f"longest {t['longest']:.0f}; truncated {t['truncated']:.1%} of the rows"
            for split, t in self.tokens.items()
        ]

    def warnings(self) -> list[str]:
        """Return the warnings on dropped rows, unknown labels and duplicates, one per line."""
        lines = []
        if self.files_left_out:
            lines.append(f"warning: {describe_left_out(self.files_left_out)}")
        if self.num_without_text:
            lines.append(f"warning: {counted(self.num_without_text, 'row')} without text left out")
        if self.num_without_label:
            rows = counted(self.num_without_label, "row")
            lines.append(f"warning: {rows} with a missing label left out")
        if self.num_empty:
            lines.append(f"rows without any label left out: {self.num_empty:,}")
        lines += [f"warning: {line}" for line in self.label_warnings]
        empty = [n for n, count in self.label_counts.get("train", {}).items() if not count]
        if empty:
            lines.append(f"warning: labels without training rows: {', '.join(empty[:5])}")
        for split, labels in self.unknown_labels.items():
            if labels:
                shown = ", ".join(
                    f"{shown_label(n)} {c}"
                    for n, c in sorted(labels.items(), key=lambda c: -c[1])[:5]
                )
                count = f"{counted(len(labels), 'label')} ({counted(sum(labels.values()), 'time')})"
                lines.append(f"{split} contains {count} outside the label space: {shown}")
        for split, num in self.num_without_known_label.items():
            if num:
                rows = counted(num, f"{split} row")
                lines.append(f"warning: {rows} without a known label left out")
        for split, share in self.duplicates.items():
            if share:
                lines.append(f"warning: {share:.1%} of the {split} texts also occur in train")
        return lines


def shown_label(name: str) -> str:
    """Return a label's name, quoted if it begins or ends with a blank."""
    return name if name == name.strip() else repr(name)


def describe_left_out(files: list[str]) -> str:
    """Return a message that lists skipped files of unknown format."""
    shown = ", ".join(files[:3]) + (" …" if len(files) > 3 else "")
    return f"{counted(len(files), 'file')} of unknown format skipped: {shown}"


def describe_tokens(report: DataReport, split: str, full: Any, is_truncated: Any) -> None:
    """Add a split's token lengths to the report.

    Args:
        report: The report.
        split: The split's name.
        full: (rows,) number of tokens before truncation.
        is_truncated: (rows,) bool.
    """
    report.tokens[split] = {
        "median": float(np.median(full)),
        "p95": float(np.quantile(full, 0.95)),
        "longest": float(full.max()),
        "truncated": float(np.mean(is_truncated.to_numpy())),
    }
