"""The scoring job: bundle, input and output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationInfo, field_validator

from clftask.components.score_table import Layout, Wide
from clftask.components.text import Columns, Names, TextRecipe
from clftask.config.from_trainer import INSTEAD_IN_SCORING
from clftask.config.sections import DataPath, WorkersSpec
from clftask.spec import Spec


class Cascade(Spec):
    """Two bundles: the small one answers where it decides as the large one does.

    Attributes:
        cascade: The small and the large bundle.
        agreement: On at least this share of the rows that the small bundle answers, its decision
            is that of the large one; see `CascadeLimit`.
    """

    TAG: ClassVar[str] = "Cascade"
    cascade: tuple[DataPath, ...]
    agreement: float = Field(0.99, gt=0.5, lt=1)

    @field_validator("cascade")
    @classmethod
    def _are_two(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) != 2:
            raise ValueError("must be two bundles: the small one, then the large one")
        return value


def _tag(bundle: Any) -> str:
    return Cascade.TAG if isinstance(bundle, Mapping | Cascade) else "path"


def _no_list(bundle: Any) -> Any:
    if isinstance(bundle, list | tuple):
        raise ValueError(
            "must be text; For a small and a large bundle write "
            "{cascade: [small, large], agreement: 0.99}"
        )
    return bundle


Bundle = Annotated[
    Annotated[DataPath, Tag("path")] | Annotated[Cascade, Tag(Cascade.TAG)],
    Discriminator(_tag),
    BeforeValidator(_no_list),
]


class ScoreInput(Spec):
    """The rows to score; `text: null` uses the text columns of training.

    `where` is an SQL condition on the columns; other rows are left out.
    `grow`: files that are added later are scored by running the same job again.
    """

    path: DataPath
    text: Columns | None = None
    text_pair: str | None = None
    id: str | None = Field(None, min_length=1)
    keep: Names = ()
    where: str | None = Field(None, min_length=1, max_length=10_000)
    grow: bool = False

    @field_validator("where")
    @classmethod
    def _is_condition(cls, value: str | None) -> str | None:
        if value is not None:
            from clftask.components.row_filter.condition import parse

            parse(value)
        return value

    @field_validator("path")
    @classmethod
    def _on_disk(cls, value: str) -> str:
        if value.startswith("hub:"):
            raise ValueError(
                "must be on disk or in an object store; Save the dataset with save_to_disk first"
            )
        return value

    def recipe(self, trained: TextRecipe) -> TextRecipe:
        """Return the text recipe of this job, given that of training."""
        named = {"text": self.text, "text_pair": self.text_pair}
        return trained.model_copy(update={k: v for k, v in named.items() if v is not None})


class ScoreWorkersSpec(WorkersSpec):
    """The workers of a scoring job; with a share of a GPU, several use the same one.

    `workers: auto` fills the largest node if there are enough rows; see `distributed/score/sizing`.
    """

    workers: int | tuple[int, int] | Literal["auto"] = 1  # type: ignore[assignment]
    gpus_per_worker: float = Field(1.0, gt=0, le=1)

    @field_validator("workers")
    @classmethod
    def _range(cls, value: Any) -> Any:
        return value if value == "auto" else super()._range(value)

    @field_validator("gpus_per_worker")
    @classmethod
    def _needs_gpu(cls, value: float, others: ValidationInfo) -> float:
        if value < 1 and others.data.get("use_gpu") is False:
            raise ValueError("needs GPUs, but use_gpu is false; Remove one of them")
        return value

    @property
    def gpu_share(self) -> float:
        """The GPUs of a worker that uses one."""
        return self.gpus_per_worker


class ScoreOutput(Spec):
    """Path of the score table, layout of its probabilities; format: `delta` adds a Delta log."""

    path: DataPath
    layout: Layout = Wide()
    format: Literal["parquet", "delta"] = "parquet"


class ScoreJob(Spec):
    """A scoring job: bundle, input and output."""

    INSTEAD: ClassVar[Mapping[str, str]] = INSTEAD_IN_SCORING

    bundle: Bundle
    input: ScoreInput
    output: ScoreOutput
    shard_rows: int = Field(20_000, ge=1)
    on_bad_row: Literal["quarantine", "fail"] = "quarantine"
    max_bad_rows: float = Field(0.01, ge=0, le=1)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    scaling: ScoreWorkersSpec = ScoreWorkersSpec()

    @property
    def bundles(self) -> dict[str, str]:
        """The paths of the bundles by field; of a cascade, the large one is the last."""
        if isinstance(self.bundle, str):
            return {"bundle": self.bundle}
        return {f"bundle.cascade.{i}": path for i, path in enumerate(self.bundle.cascade)}

    @property
    def agreement(self) -> float | None:
        """The share of equal decisions that a cascade promises; None without a cascade."""
        return None if isinstance(self.bundle, str) else self.bundle.agreement

    @property
    def paths(self) -> dict[str, str]:
        """The paths that the job reads and writes, by field."""
        places = {"input.path": self.input.path, "output.path": self.output.path}
        return {**self.bundles, **places}

    def settings(self, bundle: str, trained: TextRecipe) -> dict[str, Any]:
        """Return all that the score table depends on except the files; a rerun must match it.

        Args:
            bundle: The bundle's fingerprint; of a cascade, both.
            trained: The bundle's text recipe.
        """
        return {
            "bundle": bundle,
            "input.text": self.input.recipe(trained).dump(),
            "input.id": self.input.id,
            "input.keep": list(self.input.keep),
            "output.layout": self.output.layout.dump(),
            "shard_rows": self.shard_rows,
            "on_bad_row": self.on_bad_row,
            "precision": self.precision,
            **({} if self.agreement is None else {"bundle.agreement": self.agreement}),
            **({} if self.output.format == "parquet" else {"output.format": self.output.format}),
            **({} if self.input.where is None else {"input.where": self.input.where}),
        }
