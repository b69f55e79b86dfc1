"""Loss functions: logits and targets to one loss per row.

To add one: subclass `PairLoss`, return the losses of (row, label) pairs, and add the class to
`Loss`.
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
    """Label statistics of the train rows.

    Attributes:
        counts: (labels,) number of rows with each label; with weights or soft labels their sum.
        num_rows: Number of rows.
        is_soft: Whether the targets are probabilities.
    """

    counts: Float64
    num_rows: int
    is_soft: bool = False

    @property
    def shares(self) -> Float64:
        """(labels,) share of rows with each label."""
        return np.asarray(self.counts / max(self.num_rows, 1))

    @property
    def prior(self) -> Float64:
        """(labels,) share of rows with each label, clipped to half a row from 0 and 1."""
        return np.clip(self.counts, 0.5, self.num_rows - 0.5) / self.num_rows


class LossSpec(Spec):
    """Base class of the losses of job files.

    Attributes:
        tasks: The supported tasks.
        is_proper: Whether the loss is lowest where the prediction is the target, also for a target
            between 0 and 1 (without weights and smoothing): only then it learns probabilities.
        is_cross_entropy: Whether it is the task's cross-entropy with weights of the positives,
            which logistic regression minimises.
    """

    tasks: ClassVar[tuple[Task, ...]]
    is_proper: ClassVar[bool] = True
    is_cross_entropy: ClassVar[bool] = False
    kind: str

    @abstractmethod
    def rows_for(self, task: Task, labels: TrainLabels) -> Rows:
        """Return the function from (rows, labels) logits and targets to (rows,) float32 losses.

        Args:
            task: The job's task.
            labels: Label statistics of the train rows.
        """


class PairLoss(LossSpec):
    """Base class of losses of (row, label) pairs, summed or averaged over labels.

    Attributes:
        class_weights: `balanced` multiplies the loss of a label's positives by the ratio of
            the mean label frequency to its own, up to `max_class_weight`.
        max_class_weight: The maximum weight, so that a label with few rows does not dominate.
        label_smoothing: Label smoothing factor (Szegedy et al. 2016).
    """

    class_weights: Literal["none", "balanced"] = "none"
    max_class_weight: float = Field(10.0, ge=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)

    @abstractmethod
    def pairs(self, logits: torch.Tensor, targets: torch.Tensor, task: Task) -> torch.Tensor:
        """Return the (rows, labels) losses of pairs; targets can be between 0 and 1."""

    def weights(self, labels: TrainLabels) -> Float64 | None:
        """Return (labels,) weights of the positives, None if all are 1."""
        if self.class_weights == "none":
            return None
        rarer = labels.prior.mean() / labels.prior
        return np.asarray(np.minimum(rarer, self.max_class_weight))

    def rows_for(self, task: Task, labels: TrainLabels) -> Rows:
        """Return the sum over classes (multiclass) or the mean over labels (multilabel)."""
        import torch

        found = self.weights(labels)
        weights = None if found is None else torch.from_numpy(found).float()

        def rows(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            nonlocal weights
            if weights is None:
                pairs = self.pairs(logits, self._smooth(targets, task), task)
            else:
                weights = weights.to(targets.device)  # a GPU waits for a copy: not in each step
                pairs = self._weighted(logits, targets, weights, task)
            return pairs.sum(dim=1) if task == "multiclass" else pairs.mean(dim=1)

        return rows

    def _weighted(
        self, logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, task: Task
    ) -> torch.Tensor:
        """Return the losses of positives times their weight, and of negatives.

        A pair with a target between 0 and 1 is both, in these shares.
        """
        import torch

        ones = torch.ones_like(targets)
        positives = self.pairs(logits, self._smooth(ones, task), task)
        negatives = self.pairs(logits, self._smooth(ones * 0, task), task)
        return targets * weights * positives + (1 - targets) * negatives

    def _smooth(self, targets: torch.Tensor, task: Task) -> torch.Tensor:
        if not self.label_smoothing:
            return targets
        share = 1 / targets.shape[1] if task == "multiclass" else 0.5
        return targets * (1 - self.label_smoothing) + self.label_smoothing * share


class CrossEntropy(PairLoss):
    """Softmax cross-entropy: −log p of the true class."""

    tasks = ("multiclass",)
    is_cross_entropy = True
    kind: Literal["cross_entropy"] = "cross_entropy"

    def pairs(self, logits: torch.Tensor, targets: torch.Tensor, task: Task) -> torch.Tensor:
        """Return −target_k · log softmax(logits)_k."""
        return -(targets * logits.log_softmax(dim=1))


class BinaryCrossEntropy(PairLoss):
    """Sigmoid cross-entropy, averaged over the labels."""

    tasks = ("multilabel",)
    is_cross_entropy = True
    kind: Literal["bce"] = "bce"

    def pairs(self, logits: torch.Tensor, targets: torch.Tensor, task: Task) -> torch.Tensor:
        """Return −[y log σ(z) + (1−y) log(1−σ(z))]."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(logits, targets, reduction="none")


class Focal(PairLoss):
    """Cross-entropy times (1 − p of the truth)^γ: easy rows weigh less (Lin et al. 2017)."""

    tasks = ("multiclass", "multilabel")
    is_proper = False
    kind: Literal["focal"] = "focal"
    gamma: float = Field(2.0, ge=0)

    def pairs(self, logits: torch.Tensor, targets: torch.Tensor, task: Task) -> torch.Tensor:
        """Return −y (1−p)^γ log p, for multilabel plus −(1−y) p^γ log(1−p)."""
        if task == "multiclass":
            log_p = logits.log_softmax(dim=1)
            return -targets * (1 - log_p.exp()).clamp(min=1e-12) ** self.gamma * log_p
        return _signed(logits, targets, self.gamma, self.gamma, 0.0)


class Asymmetric(PairLoss):
    """Asymmetric loss: focal loss with separate exponents (Ridnik et al. 2021).

    Attributes:
        gamma_positive: γ₊, the exponent of positives.
        gamma_negative: γ₋, the exponent of negatives, which are far more frequent.
        clip: Negatives below this probability have no loss.
    """

    tasks = ("multilabel",)
    is_proper = False
    kind: Literal["asymmetric"] = "asymmetric"
    gamma_positive: float = Field(0.0, ge=0)
    gamma_negative: float = Field(4.0, ge=0)
    clip: float = Field(0.05, ge=0, lt=1)

    def pairs(self, logits: torch.Tensor, targets: torch.Tensor, task: Task) -> torch.Tensor:
        """Return −y (1−p)^γ₊ log p − (1−y) q^γ₋ log(1−q), with q = max(p − clip, 0)."""
        return _signed(logits, targets, self.gamma_positive, self.gamma_negative, self.clip)


class _Task(PairLoss):
    """Base class of losses that modify the task's cross-entropy."""

    tasks = ("multiclass", "multilabel")

    def pairs(self, logits: torch.Tensor, targets: torch.Tensor, task: Task) -> torch.Tensor:
        """Return the pair losses of the task's cross-entropy."""
        own = BinaryCrossEntropy() if task == "multilabel" else CrossEntropy()
        return own.pairs(logits, targets, task)


class ClassBalanced(_Task):
    """Cross-entropy weighted by the effective number of rows of a label (Cui et al. 2019).

    Attributes:
        beta: β of the weight (1 − β) / (1 − β^n): equal weights at 0, about 1/n near 1.
    """

    is_cross_entropy = True
    kind: Literal["class_balanced"] = "class_balanced"
    beta: float = Field(0.999, ge=0, lt=1)

    def weights(self, labels: TrainLabels) -> Float64 | None:
        """Return (1−β)/(1−βⁿ), scaled to mean 1 over positives, up to `max_class_weight`."""
        counts = np.maximum(labels.counts, 1)
        found = (1 - self.beta) / (1 - self.beta**counts)
        scale = np.average(found, weights=counts)
        return np.asarray(np.minimum(found / scale, self.max_class_weight))


class LogitAdjusted(_Task):
    """Cross-entropy of the logits plus τ times the log prior (Menon et al. 2021).

    The trained model's own logits then exclude the prior, which favours rare labels. Multilabel
    adds the log odds of the prior.
    """

    kind: Literal["logit_adjusted"] = "logit_adjusted"
    tau: float = Field(1.0, ge=0)

    def rows_for(self, task: Task, labels: TrainLabels) -> Rows:
        """Return the losses of the adjusted logits."""
        import torch

        rows, prior = super().rows_for(task, labels), labels.prior
        odds = np.log(prior / (1 - prior)) if task == "multilabel" else np.log(prior)
        shift = torch.from_numpy(self.tau * odds).float()

        def adjusted(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            nonlocal shift
            shift = shift.to(logits.device)
            return rows(logits + shift, targets)

        return adjusted


class AutoLoss(PairLoss):
    """Cross-entropy for multiclass and for soft labels; else focal loss, better for rare labels.

    For linear models, cross-entropy.
    """

    tasks = ("multiclass", "multilabel")
    is_cross_entropy = True
    kind: Literal["auto"] = "auto"

    def pairs(self, logits: torch.Tensor, targets: torch.Tensor, task: Task) -> torch.Tensor:
        """Return the pair losses of the loss for 0 and 1."""
        own = Focal() if task == "multilabel" else CrossEntropy()
        return own.pairs(logits, targets, task)

    def rows_for(self, task: Task, labels: TrainLabels) -> Rows:
        """Return the losses of the selected loss."""
        if task == "multiclass" or not labels.is_soft:
            return super().rows_for(task, labels)
        return BinaryCrossEntropy(**self.dump() | {"kind": "bce"}).rows_for(task, labels)


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
    """Return the pair losses of a focal sigmoid loss; powers via logarithms stay finite."""
    from torch.nn.functional import logsigmoid

    log_p, log_rest = logsigmoid(logits), logsigmoid(-logits)
    of_positives = -(positive * log_rest).exp() * log_p
    if not clip:
        of_negatives = -(negative * log_p).exp() * log_rest
    else:
        q = (log_p.exp() - clip).clamp(min=1e-12)
        of_negatives = -(q**negative) * (1 - q).log()
    return targets * of_positives + (1 - targets) * of_negatives
