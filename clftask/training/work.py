"""What all workers of a run share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from clftask.components.labels import LabelSpace
from clftask.config.train import TrainJob


@dataclass(frozen=True)
class Work:
    """The inputs that all workers of a run share.

    Attributes:
        job: The resolved job.
        run: The run's folder or prefix.
        tables: Tokenised splits.
        label_names: The labels, in order.
        data: The data's fingerprint and report, for the bundle.
        preamble: The first lines of `log.txt`.
    """

    job: TrainJob
    run: str
    tables: dict[str, pa.Table]
    label_names: tuple[str, ...]
    data: dict[str, Any]
    preamble: str

    @property
    def space(self) -> LabelSpace:
        """The labels."""
        return LabelSpace(self.job.task, self.label_names, self.job.data.labels.positive)
