"""Losses: logits and targets to one loss a row.

To add one: subclass `LossSpec`, return (rows,) losses, and put the class into `Loss`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from clftask.labels import Task
from clftask.spec import Spec, bare_kind

if TYPE_CHECKING:
    import torch


class LossSpec(Spec):
    """Base of the losses; `tasks` says where one makes sense."""

    tasks: ClassVar[tuple[Task, ...]]

    @abstractmethod
    def rows(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return (rows,) float32 losses.

        Args:
            logits: (rows, labels) float32.
            targets: (rows, labels) float32 of 0 and 1.
        """


class CrossEntropy(LossSpec):
    """Softmax cross-entropy: −log p of the one true class."""

    tasks = ("multiclass",)
    kind: Literal["cross_entropy"] = "cross_entropy"

    def rows(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return −Σ_k target_k · log softmax(logits)_k."""
        return -(targets * logits.log_softmax(dim=1)).sum(dim=1)


class BinaryCrossEntropy(LossSpec):
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

    def rows(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Not used: `resolve` puts the task's loss in its place."""
        raise NotImplementedError("resolve the loss first")


def resolve(loss: LossSpec, task: Task) -> LossSpec:
    """Return the loss that `auto` stands for."""
    if not isinstance(loss, AutoLoss):
        return loss
    return BinaryCrossEntropy() if task == "multilabel" else CrossEntropy()


Loss = Annotated[
    AutoLoss | CrossEntropy | BinaryCrossEntropy,
    Field(discriminator="kind"),
    BeforeValidator(bare_kind),
]
