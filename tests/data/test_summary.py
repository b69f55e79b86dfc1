"""Warnings of the data report."""

from __future__ import annotations

from clftask.data.summary import DataReport


def test_labels_with_a_handful_of_rows_are_named_with_the_remedy():
    report = DataReport(
        label_counts={"train": {"a": 40, "b": 9, "c": 3}, "validation": {"a": 5, "b": 0, "c": 4}}
    )
    assert report.warnings() == [
        "warning: 2 labels with fewer than 10 train rows: c 3, b 9; they may not be learned; "
        "data.labels.min_count leaves rare labels out",
        "warning: 2 labels with fewer than 5 validation rows: b 0, c 4; their thresholds and "
        "metrics are uncertain; data.labels.min_count leaves rare labels out",
    ]


def test_frequent_labels_are_not_warned_of():
    counts = {"train": {"a": 10, "b": 11}, "validation": {"a": 5, "b": 5}, "test": {"a": 0, "b": 1}}
    assert DataReport(label_counts=counts).warnings() == []


def test_many_rare_labels_are_cut():
    counts = {"train": {f"label {i}": i for i in range(1, 8)}}
    (line,) = DataReport(label_counts=counts).warnings()
    assert "7 labels with fewer than 10 train rows: label 1 1, " in line
    assert "label 5 5 …;" in line
