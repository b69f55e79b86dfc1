"""The training job: its sections, and the checks across them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from clftask.components.adapt import Adapt, Full
from clftask.components.counts import Average
from clftask.components.decision.decision import DecisionSpec
from clftask.components.decision.thresholds import AutoThreshold
from clftask.components.heads import Head, LinearHead
from clftask.components.labels import Labels, Task
from clftask.components.losses import AutoLoss, LogitAdjusted, Loss
from clftask.components.metrics import LOWER_IS_BETTER, unknown_metric
from clftask.components.optimizers import Optimizer
from clftask.components.schedules import Schedule
from clftask.components.splits import ColumnSplit, RandomSplit, Split
from clftask.components.text import Columns, TextRecipe, one_or_more
from clftask.components.trackers import Tracker
from clftask.components.truncation import KeepHead, LongText, LongTextSpec
from clftask.config.from_trainer import INSTEAD
from clftask.config.tfidf import TFIDF, TfidfSpec, unused_settings
from clftask.config.trainer_arguments import TrainerArguments
from clftask.errors import ConfigError, Problem, StorageError
from clftask.io import filesystems, storage
from clftask.spec import Spec


def resolved(value: Any) -> Any:
    """Make a local path absolute; return URLs, `hub:` and `pkg://` unchanged."""
    if not isinstance(value, str) or not value or value.startswith(("hub:", "pkg://")):
        return value
    try:
        return filesystems.absolute(value)
    except StorageError as error:
        problem = error.problems[0]
        raise ValueError(f"{problem.allowed}; {problem.remedy}") from None


def _positive(value: Any) -> Any:
    if value != "auto" and value <= 0:
        raise ValueError("must be above 0, or auto")
    return value


Cpus = Annotated[float | Literal["auto"], AfterValidator(_positive)]
DataPath = Annotated[str, BeforeValidator(resolved), Field(min_length=1)]


class DataSpec(Spec):
    """Paths of the labelled rows; text, weight, label and split columns."""

    train: DataPath
    validation: DataPath | None = None
    test: DataPath | None = None
    text: Columns
    text_pair: str | None = None
    separator: str = "\n\n"
    id: str | None = None
    weight: str | None = None
    labels: Labels
    split: Split = RandomSplit()

    @property
    def recipe(self) -> TextRecipe:
        """The text recipe."""
        return TextRecipe(text=self.text, text_pair=self.text_pair, separator=self.separator)


class ModelSpec(Spec):
    """The pretrained model, the number of its first layers to keep, its head and input length."""

    TAG: ClassVar[str] = "transformers"
    base: str = Field(min_length=1)
    layers: int | None = Field(None, ge=1)
    max_length: int = Field(128, ge=4)
    head: Head = LinearHead()
    adapt: Adapt = Full()
    long_text: LongText = KeepHead()

    @property
    def tokens(self) -> tuple[str, int, LongTextSpec]:
        """The fields that tokenisation depends on."""
        return self.base, self.max_length, self.long_text

    def num_whole(self, num_special: int) -> int:
        """Return the length in tokens of the longest text that is read whole."""
        return self.long_text.num_whole(self.max_length, num_special)

    @field_validator("base")
    @classmethod
    def _absolute_folder(cls, value: str) -> str:
        is_folder = value.startswith((".", "/", "~")) or filesystems.is_url(value)
        is_hub = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", value) is not None
        is_local = is_hub and storage.is_folder(value)
        return str(resolved(value)) if is_folder or is_local else value


def _kind_of_model(value: Any) -> str:
    base = value.get("base") if isinstance(value, Mapping) else getattr(value, "base", None)
    return TfidfSpec.TAG if base == TFIDF else ModelSpec.TAG


AnyModel = Annotated[
    Annotated[ModelSpec, Tag(ModelSpec.TAG)] | Annotated[TfidfSpec, Tag(TfidfSpec.TAG)],
    Discriminator(_kind_of_model),
]


class EarlyStopping(Spec):
    """Stop when the metric has not improved for `patience` evaluations."""

    patience: int = Field(3, ge=1)


class TrainingSpec(Spec):
    """Training hyperparameters. `batch_size` is global: over all workers and micro batches."""

    epochs: int = Field(3, ge=1)
    batch_size: int = Field(32, ge=1)
    micro_batch_size: Annotated[int | Literal["auto"], AfterValidator(_positive)] = "auto"
    learning_rate: float = Field(3e-5, gt=0)
    head_learning_rate: Annotated[float | Literal["auto"], AfterValidator(_positive)] = "auto"
    warmup: float = Field(0.1, ge=0, lt=1)
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    schedule: Schedule = Schedule.LINEAR
    optimizer: Optimizer = Optimizer.ADAMW
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    early_stopping: EarlyStopping | None = EarlyStopping()
    metric: str = "micro_f1"
    keep_checkpoints: int = Field(2, ge=0)
    deterministic: bool = False
    layer_decay: float | None = Field(None, gt=0, lt=1)
    gradient_checkpointing: bool = False
    compile: bool | Literal["auto"] = "auto"
    hf: TrainerArguments = TrainerArguments()

    @property
    def head_rate(self) -> float:
        """The learning rate of the newly initialised layers.

        By default 25 times that of the pretrained layers, at most 5e-3, but never below theirs.
        """
        if self.head_learning_rate != "auto":
            return self.head_learning_rate
        return max(self.learning_rate, min(25 * self.learning_rate, 5e-3))

    @property
    def greater_is_better(self) -> bool:
        """Whether a higher value of the metric is better."""
        return self.metric not in LOWER_IS_BETTER


class WorkersSpec(Spec):
    """Number (or range) of workers, and their resources."""

    workers: int | tuple[int, int] = 1
    use_gpu: bool | Literal["auto"] = "auto"
    cpus_per_worker: Cpus = "auto"

    @field_validator("workers")
    @classmethod
    def _range(cls, value: Any) -> Any:
        least, most = value if isinstance(value, tuple) else (value, value)
        if not 1 <= least <= most:
            raise ValueError("must be a number above 0, or [min, max]")
        return value

    @property
    def gpu_share(self) -> float:
        """The GPUs of a worker that uses one."""
        return 1.0

    @property
    def bounds(self) -> tuple[int, int]:
        """The minimum and maximum number of workers."""
        return self.workers if isinstance(self.workers, tuple) else (self.workers, self.workers)


class ScalingSpec(WorkersSpec):
    """The workers of a training job; with a range, training is elastic."""

    max_failures: int = Field(3, ge=0)


class RunSpec(Spec):
    """The run's name and storage; `name: null` generates a unique name."""

    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    storage: Annotated[str, BeforeValidator(resolved)] = "runs"
    resume: bool = False

    @model_validator(mode="after")
    def _resume_needs_name(self) -> Self:
        if self.resume and self.name is None:
            raise ValueError("resume requires a name; Set run.name to the run to resume")
        return self


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
    if isinstance(job.model, TfidfSpec):
        soft = data.labels.kind if data.labels.is_soft else None
        more = {"tracking": [*map(str, job.tracking)], "baseline": job.baseline}
        more |= {"data.weight": data.weight, "data.labels.kind": soft}
        found += unused_settings(training, job.loss, job.scaling, more)
    elif isinstance(job.loss, LogitAdjusted) and job.model.head.bias == "prior":
        allowed = f"must be zero with {job.loss.kind}, which removes the prior from the model"
        found.append(Problem("model.head.bias", "prior", allowed))
    found += problem_of_metric(job, "training.metric", training.metric)
    found += _of_positive(job)
    found += _of_columns(data)
    found += _of_optimizer(training)
    found += _of_layer_decay(job)
    found += _of_decision(job)
    found += _of_long_text(job)
    found += _of_workers(job)
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
