"""The result tables of the commands."""

from __future__ import annotations

import io
from typing import Any

from clftask.cli.summaries import score_summary
from clftask.config.results import ScoreResult


def printed(**fields: Any) -> str:
    known: dict[str, Any] = {
        "output": "out", "rows_in": 10, "rows_scored": 9, "rows_quarantined": 1, "shards": 1,
        "shards_skipped": 0, "seconds": 2.0, "rows_per_s": 5.0, "rows_truncated": 0,
        "mean_confidence": 0.5, "labels": {"a": 9},
    }  # fmt: skip
    out = io.StringIO()
    score_summary(ScoreResult(**known | fields), out)
    return out.getvalue()


def test_a_table_that_was_already_complete_has_no_speed():
    assert "rows/s" in printed()
    assert "rows/s" not in printed(rows_per_s=0.0, shards_skipped=1)


def test_rows_that_are_left_out_and_the_precision_are_told():
    note = "bf16; decides 99.6% of 256 sampled rows as fp32 does"
    text = printed(rows_filtered=1234, precision_note=note)
    assert "left out by input.where" in text
    assert "1,234" in text
    assert "bf16; decides 99.6%" in text
    assert "left out" not in printed()
