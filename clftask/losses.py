"""Losses: logits and targets to one loss a row.

To add one: subclass `RowLoss`, return (rows,) losses, and put the class into `Loss`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from clftask.labels import Task
from clftask.spec import BareKind, Spec

if TYPE_CHECKING:
    import torch


class LossSpec(Spec):
    """What a job may name; `tasks` says where it makes sense."""

    tasks: ClassVar[tuple[Task, ...]]

    @abstractmethod
    def for_task(self, task: Task) -> RowLoss:
        """Return the loss that is computed for a task."""


class RowLoss(LossSpec):
    """Base of the losses themselves."""

    def for_task(self, task: Task) -> RowLoss:
        """Return itself."""
        return self

    @abstractmethod
    def rows(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return (rows,) float32 losses.

        Args:
            logits: (rows, labels) float32.
            targets: (rows, labels) float32 of 0 and 1.
        """


class CrossEntropy(RowLoss):
    """Softmax cross-entropy: −log p of the one true class."""

    tasks = ("multiclass",)
    kind: Literal["cross_entropy"] = "cross_entropy"

    def rows(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return −Σ_k target_k · log softmax(logits)_k."""
        return -(targets * logits.log_softmax(dim=1)).sum(dim=1)


class BinaryCrossEntropy(RowLoss):
    """Sigmoid cross-entropy, averaged over the labels."""

    tasks = ("multilabel",)
    kind: Literal["bce"] = "bce"

    def rows(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean over labels of −[y log σ(z) + (1−y) log(1−σ(z))]."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)


class AutoLoss(LossSpec):
    """Cross-entropy for multiclass, binary cross-entropy for multilabel."""

    tasks = ("multiclass", "multilabel")
    kind: Literal["auto"] = "auto"

    def for_task(self, task: Task) -> RowLoss:
        """Return the loss that the task's problem type has in transformers."""
        return BinaryCrossEntropy() if task == "multilabel" else CrossEntropy()


Loss = Annotated[
    AutoLoss | CrossEntropy | BinaryCrossEntropy,
    Field(discriminator="kind"),
    BareKind(),
]
