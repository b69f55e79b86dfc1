"""The training job: its sections, and the checks across them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from clftask.components.counts import Average
from clftask.components.decision.decision import DecisionSpec
from clftask.components.decision.thresholds import AutoThreshold
from clftask.components.labels import Task
from clftask.components.losses import AutoLoss, LogitAdjusted, Loss
from clftask.components.metrics import unknown_metric
from clftask.components.splits import ColumnSplit
from clftask.components.text import one_or_more
from clftask.components.trackers import Tracker
from clftask.components.truncation import LongTextSpec
from clftask.config.from_trainer import INSTEAD
from clftask.config.sections import (
    AnyModel,
    DataSpec,
    ModelSpec,
    RunSpec,
    ScalingSpec,
    TrainingSpec,
)
from clftask.config.tfidf import TfidfSpec, unused_settings
from clftask.errors import ConfigError, Problem
from clftask.spec import Spec

Encoder = tuple[str, int, LongTextSpec, int | None, str, str]


class TrainJob(Spec):
    """A training job.

    Attributes:
        baseline: Whether a linear model is fitted on the same rows, for comparison.
    """

    INSTEAD: ClassVar[Mapping[str, str]] = INSTEAD

    task: Task
    seed: int = Field(42, ge=0, lt=2**32)
    data: DataSpec
    model: AnyModel
    loss: Loss = AutoLoss()
    training: TrainingSpec = TrainingSpec()
    decision: DecisionSpec = DecisionSpec()
    baseline: bool = False
    scaling: ScalingSpec = ScalingSpec()
    tracking: Annotated[tuple[Tracker, ...], BeforeValidator(one_or_more)] = ()
    run: RunSpec = Field(default_factory=RunSpec)

    @classmethod
    def load(cls, source: str | Path | Mapping[str, Any], overrides: Iterable[str] = ()) -> Self:
        """Read a job and check its fields, then their combinations.

        Raises:
            ConfigError: Lists all invalid fields, or all invalid combinations.
        """
        job = super().load(source, overrides)
        mistakes = cross_field_errors(job)
        if mistakes:
            raise ConfigError(*mistakes)
        return job

    @model_serializer(mode="wrap")
    def _without_unused(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what a linear model does not have: `load` refuses it."""
        found: dict[str, Any] = plain(self)
        if self.is_linear:
            found["training"] = {"metric": self.training.metric}
        return found

    @property
    def transformer(self) -> ModelSpec:
        """The model section of a job that trains a pretrained model."""
        assert isinstance(self.model, ModelSpec)
        return self.model

    @property
    def is_linear(self) -> bool:
        """Whether it trains a linear model."""
        return isinstance(self.model, TfidfSpec)

    @property
    def encoder(self) -> Encoder | None:
        """What the features of a frozen encoder depend on beside the rows; None: it is trained."""
        model = self.model
        if isinstance(model, TfidfSpec) or model.adapt.trains_layers:
            return None
        precision = f"{self.training.precision}, weights in {self.training.weights}"
        return *model.tokens, model.layers, model.head.kind, precision

    @property
    def epochs(self) -> int:
        """The maximum number of epochs; a linear model is fitted in one."""
        return 1 if self.is_linear else self.training.epochs

    @property
    def average(self) -> Average:
        """The average of the metric; the decision maximises F1 with the same one."""
        return "macro" if self.training.metric.startswith("macro") else "micro"

    @property
    def paths(self) -> dict[str, str]:
        """The paths that the job reads and writes, by field."""
        data = self.data
        found = {
            "data.train": data.train,
            "data.validation": data.validation,
            "data.test": data.test,
            "model.base": None if self.is_linear else self.model.base,
            "run.storage": self.run.storage,
        }
        return {field: path for field, path in found.items() if path is not None}

    def identity(self) -> dict[str, Any]:
        """Return what a resumed run must match: all except scaling, tracking and run."""
        return {k: v for k, v in self.dump().items() if k not in ("scaling", "tracking", "run")}


def cross_field_errors(job: TrainJob) -> list[Problem]:
    """Return the invalid combinations of fields."""
    training, data = job.training, job.data
    found = _of_labels(job)
    if job.task not in job.loss.tasks:
        found.append(Problem("loss.kind", job.loss.kind, f"is not for {job.task}", "Use auto."))
    elif data.labels.is_soft and not job.loss.is_proper:
        allowed = "does not learn probabilities: it is lowest elsewhere"
        found.append(Problem("loss.kind", job.loss.kind, allowed, "Use auto."))
    found += _of_model(job)
    found += problem_of_metric(job, "training.metric", training.metric)
    found += _of_positive(job)
    found += _of_columns(data)
    found += _of_optimizer(training)
    found += _of_layer_decay(job)
    found += _of_decision(job)
    found += _of_long_text(job)
    found += _of_weights(job)
    found += _of_workers(job)
    found += _of_sharding(job)
    if isinstance(data.split, ColumnSplit):
        if data.validation or data.test:
            remedy = "Remove data.validation and data.test, or the split."
            allowed = "cannot be combined with separate tables"
            found.append(Problem("data.split", "column", allowed, remedy))
    elif data.validation is None and data.split.validation == 0:
        remedy = "Set a share, or data.validation."
        allowed = "must be above 0: the best checkpoint is selected on validation"
        found.append(Problem("data.split.validation", 0, allowed, remedy))
    return found


def _of_model(job: TrainJob) -> list[Problem]:
    found = []
    if isinstance(job.model, TfidfSpec):
        more = {"tracking": [*map(str, job.tracking)], "baseline": job.baseline}
        return unused_settings(job.training, job.loss, job.scaling, more)
    if isinstance(job.loss, LogitAdjusted) and job.model.head.bias == "prior":
        allowed = f"must be zero with {job.loss.kind}, which removes the prior from the model"
        found.append(Problem("model.head.bias", "prior", allowed))
    return found


def problem_of_metric(job: TrainJob, path: str, name: str) -> list[Problem]:
    """Return the problem of a field that names no metric of the job, if so."""
    labels = job.data.labels
    num_labels = None if labels.known is None else len(labels.known)
    found = unknown_metric(path, name, job.task, num_labels, labels.positive is not None)
    return [] if found is None else [found]


def problem_of_positive(positive: str | None, names: Sequence[str]) -> list[Problem]:
    """Return the problem of a positive class that does not fit the labels, if so."""
    path, listed = "data.labels.positive", ", ".join(names[:5]) + (" …" if names[5:] else "")
    if positive is not None and len(names) != 2:
        allowed = f"is for two classes, and there are {len(names)}: {listed}"
        return [Problem(path, positive, allowed, "Remove it.")]
    if positive is not None and positive not in names:
        return [Problem(path, positive, f"must be one of the labels: {listed}")]
    return []


def _of_labels(job: TrainJob) -> list[Problem]:
    labels = job.data.labels
    if job.task not in labels.tasks:
        fitting = "list, delimited or indicators" if job.task == "multilabel" else "class"
        allowed = f"a {job.task} task requires labels of kind {fitting}, or probabilities"
        return [Problem("data.labels.kind", labels.kind, allowed, "Or change task.")]
    wrong = labels.problems(job.task)
    return [replace(p, path=f"data.labels.{p.path}") for p in wrong]


def _of_positive(job: TrainJob) -> list[Problem]:
    labels = job.data.labels
    if labels.positive is not None and job.task == "multilabel":
        allowed = "is for labels of kind class: a multilabel task has metrics of each label"
        return [Problem("data.labels.positive", labels.positive, allowed, "Remove it.")]
    return [] if labels.known is None else problem_of_positive(labels.positive, labels.known)


def _of_columns(data: DataSpec) -> list[Problem]:
    kinds = (data.labels, data.labels.held_out)
    allowed = "must not be a text column: the model would read the label"
    found = [
        Problem("data.labels", column, allowed, "Remove it from data.text.")
        for column in data.recipe.columns
        if any(labels.reads(column) for labels in kinds)
    ]
    if data.weight is not None and any(labels.reads(data.weight) for labels in kinds):
        allowed = "must not be a label column"
        found.append(Problem("data.weight", data.weight, allowed, "Use another column."))
    return found


def _of_optimizer(training: TrainingSpec) -> list[Problem]:
    allowed = f"has no effect with optimizer {training.optimizer}"
    return [
        Problem(f"training.hf.{name}", value, allowed, "Remove it.")
        for name, value in training.hf.dump().items()
        if name in training.optimizer.unused({name})
    ]


def _of_layer_decay(job: TrainJob) -> list[Problem]:
    decay = job.training.layer_decay
    if decay is None or job.is_linear or job.transformer.adapt.trains_layers:
        return []
    allowed = f"has no effect with model.adapt {job.transformer.adapt.kind}, which trains no layers"
    return [Problem("training.layer_decay", decay, allowed, "Remove it.")]


def _of_weights(job: TrainJob) -> list[Problem]:
    training, path = job.training, "training.weights"
    if training.weights == "fp32" or job.is_linear:
        return []
    found = []
    if not job.transformer.adapt.freezes:
        kind = job.transformer.adapt.kind
        allowed = f"is for frozen weights, and model.adapt {kind} trains all of them, in fp32"
        found.append(Problem(path, "bf16", allowed, "Use lora, or remove it."))
    if training.precision != "bf16":
        allowed = "must be bf16 with training.weights: bf16"
        found.append(Problem("training.precision", training.precision, allowed))
    return found


def _of_sharding(job: TrainJob) -> list[Problem]:
    scaling, training = job.scaling, job.training
    if scaling.shard is None or job.is_linear:
        return []
    found = []
    if scaling.bounds[0] < 2:
        allowed = "must be at least 2 with scaling.shard: the model is cut among the workers"
        found.append(Problem("scaling.workers", scaling.workers, allowed))
    if training.precision == "fp16":
        allowed = (
            "is not supported with scaling.shard: gradients that overflow show on one worker only"
        )
        found.append(Problem("training.precision", "fp16", allowed, "Use bf16."))
    if training.compile is True:
        allowed = "is not supported with scaling.shard"
        found.append(Problem("training.compile", True, allowed, "Remove it."))
    if not training.optimizer.is_elementwise:
        allowed = "is not supported with scaling.shard: it needs whole matrices"
        found.append(Problem("training.optimizer", training.optimizer.value, allowed, "Use adamw."))
    return found


def _of_workers(job: TrainJob) -> list[Problem]:
    batch_size, (least, most) = job.training.batch_size, job.scaling.bounds
    if most > batch_size:
        allowed = f"is global, so it must be at least scaling.workers ({most})"
        return [Problem("training.batch_size", batch_size, allowed)]
    if least == most and batch_size % most:
        allowed = f"is global, so it must be a multiple of scaling.workers ({most})"
        return [Problem("training.batch_size", batch_size, allowed)]
    return []


def _of_long_text(job: TrainJob) -> list[Problem]:
    if not isinstance(job.model, ModelSpec):
        return []
    model, policy = job.model, job.model.long_text
    found = []
    if job.data.text_pair is not None and not policy.takes_pairs:
        allowed = "does not support text pairs"
        found.append(Problem("model.long_text.kind", policy.kind, allowed, "Use head."))
    wrong = policy.problems(model.max_length)
    return found + [replace(p, path=f"model.long_text.{p.path}") for p in wrong]


def _of_decision(job: TrainJob) -> list[Problem]:
    threshold, floor = job.decision.threshold, job.decision.abstain_below
    if job.task == "multilabel" and floor is not None:
        allowed = "is for multiclass: a multilabel row can have no labels anyway"
        return [Problem("decision.abstain_below", floor, allowed, "Remove it.")]
    if job.task == "multiclass" and not isinstance(threshold, AutoThreshold):
        shown = threshold if isinstance(threshold, float) else threshold.kind
        allowed = "is for multilabel: a multiclass row gets its most probable class"
        return [Problem("decision.threshold", shown, allowed, "Remove it.")]
    return []
