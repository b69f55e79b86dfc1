"""The scoring job: a bundle, a corpus, and where the score table goes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from clftask.components.score_table import Layout, Wide
from clftask.components.text import Columns, Names, TextRecipe
from clftask.config.train import DataPath, WorkersSpec, resolved
from clftask.spec import Spec


class ScoreInput(Spec):
    """The rows to score; `text: null` takes the columns that the bundle was trained on."""

    path: DataPath
    text: Columns | None = None
    text_pair: str | None = None
    id: str | None = Field(None, min_length=1)
    keep: Names = ()

    @field_validator("path")
    @classmethod
    def _on_disk(cls, value: str) -> str:
        if value.startswith("hub:"):
            raise ValueError("is read from disk or S3; Save the dataset with save_to_disk first")
        return value

    def recipe(self, trained: TextRecipe) -> TextRecipe:
        """Return how text is made here, given how it was made in training."""
        named = {"text": self.text, "text_pair": self.text_pair}
        return trained.model_copy(update={k: v for k, v in named.items() if v is not None})


class ScoreOutput(Spec):
    """Where the score table goes, and how probabilities are laid out in it."""

    path: Annotated[str, BeforeValidator(resolved), Field(min_length=1)]
    layout: Layout = Wide()


class ScoreJob(Spec):
    """A scoring job: a bundle, a corpus, and where the table goes."""

    bundle: DataPath
    input: ScoreInput
    output: ScoreOutput
    shard_rows: int = Field(20_000, ge=1)
    on_bad_row: Literal["quarantine", "fail"] = "quarantine"
    max_bad_rows: float = Field(0.01, ge=0, le=1)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    scaling: WorkersSpec = WorkersSpec()

    @property
    def paths(self) -> dict[str, str]:
        """The places that the job reads and writes, by field."""
        return {
            "bundle": self.bundle,
            "input.path": self.input.path,
            "output.path": self.output.path,
        }

    def settings(self, bundle: str, trained: TextRecipe) -> dict[str, Any]:
        """Return all that the score table depends on but the files: what a rerun must share.

        Args:
            bundle: The bundle's fingerprint.
            trained: How the bundle makes text.
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
        }
