"""The columns of a job's score table."""

from __future__ import annotations

from clftask.components.score_table import ScoreColumns
from clftask.config.score import ScoreJob
from clftask.data.readers.base import FILE, ROW
from clftask.models.bundle_meta import BundleMeta


def columns_of(job: ScoreJob, meta: BundleMeta) -> ScoreColumns:
    """Return the columns of a job's score table."""
    layout = job.output.layout
    has_sets, is_cascade = meta.decision.sets is not None, job.agreement is not None
    return ScoreColumns(meta.task, meta.label_names, layout, has_sets, is_cascade)


def origin_columns(job: ScoreJob) -> list[str]:
    """Return the columns that identify a row, and the columns to keep."""
    identity = [job.input.id] if job.input.id else [FILE, ROW]
    return list(dict.fromkeys([*identity, *job.input.keep]))
