"""What all workers of a run share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from clftask.components.labels import LabelSpace
from clftask.config.train import TrainJob

if TYPE_CHECKING:
    from clftask.training.features import Features


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
        features: Returns those of its frozen encoder, if a search has computed them.
    """

    job: TrainJob
    run: str
    tables: dict[str, pa.Table]
    label_names: tuple[str, ...]
    data: dict[str, Any]
    preamble: str
    features: Callable[[], Features | None] | None = None

    @property
    def space(self) -> LabelSpace:
        """The labels."""
        return LabelSpace(self.job.task, self.label_names, self.job.data.labels.positive)
