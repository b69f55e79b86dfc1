"""The sections of a training job; scoring jobs and searches share some of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from clftask.components.adapt import Adapt, Full
from clftask.components.heads import Head, LinearHead
from clftask.components.labels import Labels
from clftask.components.metrics import LOWER_IS_BETTER
from clftask.components.optimizers import Optimizer
from clftask.components.schedules import Schedule
from clftask.components.splits import RandomSplit, Split
from clftask.components.text import Columns, TextRecipe
from clftask.components.truncation import KeepHead, LongText, LongTextSpec
from clftask.config.tfidf import TFIDF, TfidfSpec
from clftask.config.trainer_arguments import TrainerArguments
from clftask.errors import StorageError
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
        could_be_hub_id = re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", value) is not None
        is_hub_id = could_be_hub_id and not storage.is_folder(value)
        return value if is_hub_id else str(resolved(value))


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
    weights: Literal["fp32", "bf16"] = "fp32"
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
    """The workers of a training job; with a range, training is elastic.

    `shard: fsdp` cuts the model among them; without it, each has a whole one.
    """

    max_failures: int = Field(3, ge=0)
    shard: Literal["fsdp"] | None = None

    def is_sharded(self, num_workers: int) -> bool:
        """Tell whether the model is cut among this number of workers."""
        return self.shard is not None and num_workers > 1


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
