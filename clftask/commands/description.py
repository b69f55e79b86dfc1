"""Base classes of what `inspect` finds at a path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from clftask.components.labels import Task
from clftask.config.results import Metrics


@dataclass(frozen=True, kw_only=True)
class Description:
    """What there is at a path; the terminal and JSON show the fields of `as_json`."""

    kind: ClassVar[str] = ""
    NAMES: ClassVar[Mapping[str, str]] = {}  # of fields that are shown under another name

    def as_json(self) -> dict[str, Any]:
        """Return the fields by their names, without those at their default.

        Fields that are descriptions themselves give theirs.
        """
        found: dict[str, Any] = {"kind": self.kind} if self.kind else {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Description):
                found |= value.as_json()
            elif value is not f.default:
                found[self.NAMES.get(f.name, f.name)] = value
        return found


@dataclass(frozen=True, kw_only=True)
class Measured(Description):
    """A classifier with its metrics.

    Attributes:
        task: multiclass or multilabel.
        metric: The metric that selected its epoch; None if unknown.
        metrics: By split and name.
        warnings: Warnings about the decision and the metrics.
    """

    task: Task
    metric: str | None = None
    metrics: Metrics
    warnings: list[str]
