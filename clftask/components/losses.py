"""Losses: logits and targets to one loss a row.

To add one: subclass `PairLoss`, return the losses of (row, label) pairs, and put the class
into `Loss`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from clftask.array_types import Float64
from clftask.components.labels import Task
from clftask.spec import BareKind, Spec

if TYPE_CHECKING:
    import torch

    Rows = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class TrainLabels:
    """What a loss may know of the train rows.

    Attributes:
        counts: (labels,) rows that carry each label.
        num_rows: All rows.
    """

    counts: Float64
    num_rows: int

    @property
    def prior(self) -> Float64:
        """(labels,) share of the rows that carry each label, within half a row of 0 and 1."""
        return np.clip(self.counts, 0.5, self.num_rows - 0.5) / self.num_rows


class LossSpec(Spec):
    """What a job may name; `tasks` says where it makes sense."""

    tasks: ClassVar[tuple[Task, ...]]
    kind: str

    @abstractmethod
    def rows_for(self, task: Task, labels: TrainLabels) -> Rows:
        """Return the function from (rows, labels) logits and targets to (rows,) float32 losses.

        Args:
            task: Of the job.
            labels: Of the train rows.
        """


class PairLoss(LossSpec):
    """Base of the losses themselves: of (row, label) pairs, summed or averaged over labels.

    Attributes:
        class_weights: `balanced` multiplies the loss of a label's positives by how much rarer
            it is than the mean label, up to `max_class_weight`.
        max_class_weight: The cap; a label on a single row would drown the others.
        label_smoothing: How far targets are moved from 0 and 1 (Szegedy et al. 2016).
    """

    class_weights: Literal["none", "balanced"] = "none"
    max_class_weight: float = Field(10.0, ge=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)

    @abstractmethod
    def pairs(self, logits: torch.Tensor, targets: torch.Tensor, task: Task) -> torch.Tensor:
        """Return the (rows, labels) losses of pairs; targets may lie between 0 and 1."""

    def weights(self, labels: TrainLabels) -> Float64 | None:
        """Return (labels,) weights of positives, None if all are 1."""
        if self.class_weights == "none":
            return None
        rarer = labels.prior.mean() / labels.prior
        return np.asarray(np.minimum(rarer, self.max_class_weight))

    def rows_for(self, task: Task, labels: TrainLabels) -> Rows:
        """Return the sum over classes, or the mean over labels."""
        import torch

        found = self.weights(labels)
        weights = None if found is None else torch.from_numpy(found).float()

        def rows(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            pairs = self.pairs(logits, self._smooth(targets, task), task)
            if weights is not None:
                pairs = pairs * (1 + targets * (weights.to(targets.device) - 1))
            return pairs.sum(dim=1) if task == "multiclass" else pairs.mean(dim=1)

        return rows

    def _smooth(self, targets: torch.Tensor, task: Task) -> torch.Tensor:
        if not self.label_smoothing:
            return targets
        share = 1 / targets.shape[1] if task == "multiclass" else 0.5
        return targets * (1 - self.label_smoothing) + self.label_smoothing * share


class CrossEntropy(PairLoss):
    """Softmax cross-entropy: −log p of the one true class."""

    tasks = ("multiclass",)
    kind: Literal["cross_entropy"] = "cross_entropy"

    def pairs(self, logits: torch.Tensor, targets: torch.Tensor, task: Task) -> torch.Tensor:
        """Return −target_k · log softmax(logits)_k."""
        return -(targets * logits.log_softmax(dim=1))


class BinaryCrossEntropy(PairLoss):
    """Sigmoid cross-entropy, averaged over the labels."""

    tasks = ("multilabel",)
    kind: Literal["bce"] = "bce"

    def pairs(self, logits: torch.Tensor, targets: torch.Tensor, task: Task) -> torch.Tensor:
        """Return −[y log σ(z) + (1−y) log(1−σ(z))]."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(logits, targets, reduction="none")


class Focal(PairLoss):
    """Cross-entropy times (1 − p of what is true)^γ: easy rows count less (Lin et al. 2017)."""

    tasks = ("multiclass", "multilabel")
    kind: Literal["focal"] = "focal"
    gamma: float = Field(2.0, ge=0)

    def pairs(self, logits: torch.Tensor, targets: torch.Tensor, task: Task) -> torch.Tensor:
        """Return −y (1−p)^γ log p, and for multilabel −(1−y) p^γ log(1−p) beside it."""
        if task == "multiclass":
            log_p = logits.log_softmax(dim=1)
            return -targets * (1 - log_p.exp()).clamp(min=1e-12) ** self.gamma * log_p
        return _signed(logits, targets, self.gamma, self.gamma, 0.0)


class Asymmetric(PairLoss):
    """ASL: focal with exponents of its own for positives and negatives (Ridnik et al. 2021).

    Attributes:
        gamma_positive: γ₊ of the positives.
        gamma_negative: γ₋ of the negatives, of which there are many more.
        clip: Negatives below this probability cost nothing.
    """

    tasks = ("multilabel",)
    kind: Literal["asymmetric"] = "asymmetric"
    gamma_positive: float = Field(0.0, ge=0)
    gamma_negative: float = Field(4.0, ge=0)
    clip: float = Field(0.05, ge=0, lt=1)

    def pairs(self, logits: torch.Tensor, targets: torch.Tensor, task: Task) -> torch.Tensor:
        """Return −y (1−p)^γ₊ log p − (1−y) q^γ₋ log(1−q), with q = max(p − clip, 0)."""
        return _signed(logits, targets, self.gamma_positive, self.gamma_negative, self.clip)


class _Task(PairLoss):
    """Base of those that change the task's own cross-entropy."""

    tasks = ("multiclass", "multilabel")

    def pairs(self, logits: torch.Tensor, targets: torch.Tensor, task: Task) -> torch.Tensor:
        """Return the pairs of the task's cross-entropy."""
        own = BinaryCrossEntropy() if task == "multilabel" else CrossEntropy()
        return own.pairs(logits, targets, task)


class ClassBalanced(_Task):
    """Cross-entropy weighted by the effective number of rows of a label (Cui et al. 2019).

    Attributes:
        beta: β of (1 − β) / (1 − β^n): 0 weighs all labels alike, near 1 by 1/n.
    """

    kind: Literal["class_balanced"] = "class_balanced"
    beta: float = Field(0.999, ge=0, lt=1)

    def weights(self, labels: TrainLabels) -> Float64 | None:
        """Return (1−β)/(1−βⁿ), scaled to the mean 1 over positives and capped."""
        counts = np.maximum(labels.counts, 1)
        found = (1 - self.beta) / (1 - self.beta**counts)
        scale = np.average(found, weights=counts)
        return np.asarray(np.minimum(found / scale, self.max_class_weight))


class LogitAdjusted(_Task):
    """Cross-entropy of logits to which τ times the log prior is added (Menon et al. 2021).

    The model itself learns to do without the prior, which favours rare labels. For multilabel
    the log odds of the prior are added.
    """

    kind: Literal["logit_adjusted"] = "logit_adjusted"
    tau: float = Field(1.0, ge=0)

    def rows_for(self, task: Task, labels: TrainLabels) -> Rows:
        """Return the losses of the adjusted logits."""
        import torch

        rows, prior = super().rows_for(task, labels), labels.prior
        odds = np.log(prior / (1 - prior)) if task == "multilabel" else np.log(prior)
        shift = torch.from_numpy(self.tau * odds).float()
        return lambda logits, targets: rows(logits + shift.to(logits.device), targets)


class AutoLoss(PairLoss):
    """Cross-entropy for multiclass, focal for multilabel, where rare labels gain by it."""

    tasks = ("multiclass", "multilabel")
    kind: Literal["auto"] = "auto"

    def pairs(self, logits: torch.Tensor, targets: torch.Tensor, task: Task) -> torch.Tensor:
        """Return the pairs of the loss that is chosen."""
        own = Focal() if task == "multilabel" else CrossEntropy()
        return own.pairs(logits, targets, task)


Loss = Annotated[
    AutoLoss
    | CrossEntropy
    | BinaryCrossEntropy
    | Focal
    | Asymmetric
    | ClassBalanced
    | LogitAdjusted,
    Field(discriminator="kind"),
    BareKind(),
]


def _signed(
    logits: torch.Tensor, targets: torch.Tensor, positive: float, negative: float, clip: float
) -> torch.Tensor:
    """Return the pairs of a focal sigmoid loss: powers by way of logarithms, which stay finite."""
    from torch.nn.functional import logsigmoid

    log_p, log_rest = logsigmoid(logits), logsigmoid(-logits)
    of_positives = -(positive * log_rest).exp() * log_p
    if not clip:
        of_negatives = -(negative * log_p).exp() * log_rest
    else:
        q = (log_p.exp() - clip).clamp(min=1e-12)
        of_negatives = -(q**negative) * (1 - q).log()
    return targets * of_positives + (1 - targets) * of_negatives
