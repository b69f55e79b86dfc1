"""The data report: counts, token lengths and warnings, printed before training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clftask.components.labels import LabelSpace
from clftask.components.splits import SPLITS
from clftask.data.targets import soft_targets, weights_of
from clftask.messages import are, counted, shown_label

FEW_TRAIN_ROWS, FEW_VALIDATION_ROWS = 10, 5


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
    num_without_group: dict[str, int] = field(default_factory=dict)
    num_groups_in_several_splits: int = 0
    groups_alike: list[str] = field(default_factory=list)
    unmet_shares: dict[str, tuple[float, float]] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    label_counts: dict[str, dict[str, int]] = field(default_factory=dict)
    labels_per_row: float = 0.0
    soft_labels: dict[str, float] = field(default_factory=dict)  # mean highest probability
    row_weights: dict[str, float] = field(default_factory=dict)  # of train: lowest, highest, zeros
    duplicates: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, dict[str, float]] = field(default_factory=dict)
    split_read: str | None = None  # of the splits of a dataset, for evaluate
    other_splits: list[str] = field(default_factory=list)

    def describe(self, tables: dict[str, pa.Table], space: LabelSpace) -> None:
        """Fill in row counts, label counts and the share of texts that also occur in train.

        `find_duplicates` tells more about equal texts, for `inspect JOB --data`.
        """
        for split, table in tables.items():
            self.rows[split] = table.num_rows
            codes = table["labels"].combine_chunks().flatten().to_numpy()
            counts = np.bincount(codes, minlength=len(space.names))
            self.label_counts[split] = dict(zip(space.names, counts.tolist(), strict=True))
            soft = soft_targets(table)
            if soft is not None:
                self.soft_labels[split] = float(soft.max(1).mean())
        train = tables["train"]
        if (weights := weights_of(train)) is not None:
            zeros = int((weights == 0).sum())
            self.row_weights = {
                "lowest": float(weights.min()),
                "highest": float(weights.max()),
                "zeros": zeros,
            }
        self.labels_per_row = sum(self.label_counts["train"].values()) / train.num_rows
        for split in tables.keys() - {"train"}:
            again = pc.is_in(tables[split]["text"], pc.unique(train["text"]))
            self.duplicates[split] = (pc.sum(again).as_py() or 0) / tables[split].num_rows

    def describe_shares(self, split: Any, wanted: dict[str, float]) -> None:
        """Note the splits that miss their share of the rows by half or more: groups stay whole.

        Args:
            split: (rows,) the index of each row's split in `SPLITS`.
            wanted: The share that was asked for, by split.
        """
        for name, share in wanted.items():
            found = float(np.mean(split == SPLITS.index(name)))
            if share and abs(found - share) >= share / 2:
                self.unmet_shares[name] = share, found

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
        lines = [f"labels: {len(counts)}, {self.labels_per_row:.2f} a row", *self.notes()]
        lines.append("  most frequent: " + ", ".join(f"{shown_label(n)} {c:,}" for n, c in shown))
        if len(counts) > 12:
            lines.append(
                "  rarest: " + ", ".join(f"{shown_label(n)} {c:,}" for n, c in counts[-6:])
            )
        return lines

    def notes(self) -> list[str]:
        """Return a line on soft labels, and one on row weights, as far as there are any."""
        lines = []
        if self.soft_labels:
            shares = ", ".join(f"{mean:.3f} in {split}" for split, mean in self.soft_labels.items())
            lines.append(
                f"soft labels: the highest probability of a row is {shares} on average; rows are "
                "counted by the labels that the probabilities give"
            )
        if self.row_weights:
            low, high, zeros = (self.row_weights[n] for n in ("lowest", "highest", "zeros"))
            none = f"; {counted(int(zeros), 'row')} of weight 0" if zeros else ""
            lines.append(f"row weights: {low:.3g} to {high:.3g} times their mean{none}")
        return lines

    def _token_lines(self) -> list[str]:
        return [
            f"tokens ({split}): median {t['median']:.0f}, 95 % {t['p95']:.0f}, "
            f"longest {t['longest']:.0f}; truncated {t['truncated']:.1%} of the rows, "
            f"{t['lost']:.1%} of the tokens"
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
        lines += self._group_lines()
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
        lines += self._rare_labels("train", FEW_TRAIN_ROWS, "they may not be learned")
        lines += self._rare_labels(
            "validation", FEW_VALIDATION_ROWS, "their thresholds and metrics are uncertain"
        )
        for split, share in self.duplicates.items():
            if share:
                lines.append(f"warning: {share:.1%} of the {split} texts also occur in train")
        return lines

    def _rare_labels(self, split: str, few: int, effect: str) -> list[str]:
        """Return a warning of the labels with a handful of rows, if there are any."""
        counts = self.label_counts.get(split, {})
        rare = sorted((n, name) for name, n in counts.items() if n < few)
        if not rare:
            return []
        shown = ", ".join(f"{shown_label(name)} {n}" for n, name in rare[:5]) + (
            " …" if rare[5:] else ""
        )
        what = f"{counted(len(rare), 'label')} with fewer than {few} {split} rows: {shown}"
        remedy = "data.labels.min_count leaves rare labels out"
        return [f"warning: {what}; {effect}; {remedy}"]

    def _group_lines(self) -> list[str]:
        lines = []
        for split, num in self.num_without_group.items():
            if num:
                rows = counted(num, f"{split} row")
                lines.append(f"warning: {rows} without a group: each is a group of its own")
        for split, (wanted, found) in self.unmet_shares.items():
            share = f"{split} has {found:.1%} of the rows instead of {wanted:.1%}"
            lines.append(f"warning: {share}, because groups are not divided")
        if self.groups_alike:
            shown = ", ".join(map(repr, self.groups_alike))
            alike = f"groups that differ only in the form of a number: {shown}"
            lines.append(f"warning: {alike}; write them alike if they are one group")
        if num := self.num_groups_in_several_splits:
            what = f"{counted(num, 'group')} {are(num)} in more than one split"
            lines.append(f"warning: {what}: the metrics may be too high")
        return lines


def describe_left_out(files: list[str]) -> str:
    """Return a message that lists skipped files of unknown format."""
    shown = ", ".join(files[:3]) + (" …" if len(files) > 3 else "")
    return f"{counted(len(files), 'file')} of unknown format skipped: {shown}"


def length_figures(lengths: Any) -> dict[str, float]:
    """Return the median, the 95 % quantile and the maximum of (rows,) lengths."""
    return {
        "median": float(np.median(lengths)),
        "p95": float(np.quantile(lengths, 0.95)),
        "longest": float(lengths.max()),
    }


def token_figures(full: Any, tokens: pa.Table) -> dict[str, float]:
    """Return the token lengths of texts, and the shares of rows and tokens that are cut off.

    Args:
        full: (rows,) number of tokens before truncation.
        tokens: The result of `tokenise`.
    """
    is_cut = tokens["is_truncated"].to_numpy()
    lost = np.maximum(full - tokens["length"].to_numpy(), 0)[is_cut].sum()
    shares = {"truncated": float(is_cut.mean()), "lost": float(lost / max(1, full.sum()))}
    return length_figures(full) | shares
