"""The metrics that fit a task: what the terminal and the top of a report show."""

from __future__ import annotations

from collections.abc import Iterable

from clftask.components.labels import Task
from clftask.components.metrics import LINEAR, MAJORITY

# Only tasks with `labels.positive` have the figures of one class.
_OF_POSITIVE = ("precision", "recall", "f1")
_HEADLINE: dict[Task, tuple[str, ...]] = {
    "multiclass": ("accuracy", "macro_f1", "log_loss", "ece"),
    "multilabel": ("micro_f1", "macro_f1", "map", "log_loss", "ece"),
}
_IF_THERE = ("coverage", "set_coverage", "set_size", "labels_absent")


def headline_names(task: Task, own: str, available: Iterable[str]) -> list[str]:
    """Return the names of the headline metrics among the available ones, in order.

    Args:
        task: multiclass or multilabel.
        own: The job's metric, which is always shown.
        available: The metrics of all splits.
    """
    known = set(available)
    names = dict.fromkeys([*_OF_POSITIVE, own, *_HEADLINE[task], *_IF_THERE])
    with_baseline = (found for name in names for found in (name, name + MAJORITY, name + LINEAR))
    return [name for name in with_baseline if name in known]
