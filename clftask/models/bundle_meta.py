"""The schema of clftask.json."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from clftask.components.adapt import Adapt
from clftask.components.decision.decision import Decision
from clftask.components.labels import LabelSpace, Task
from clftask.components.text import TextRecipe
from clftask.components.truncation import KeepHead, LongText
from clftask.config.results import Shipped
from clftask.evaluation.baseline import against_linear
from clftask.evaluation.evaluate import LINEAR_METRICS
from clftask.messages import counted
from clftask.spec import PlainData, Spec

SCHEMA_VERSION = 1


class BundleMeta(Spec):
    """The content of `clftask.json`.

    Attributes:
        text: How texts are built from columns.
        model: transformers, or tfidf: a linear model, which reads whole texts.
        max_length: Maximum number of tokens of one model input.
        truncation: The treatment of longer texts.
        decision: How labels are derived from probabilities.
        job: The resolved training job.
        data: Fingerprint and report of the data.
        metrics: All metrics by split; null where a metric is undefined.
        positive: The positive class, if the job names one.
        warnings: Warnings about the fitted decision and the metrics.
        shipped: The epoch of the weights, and how training ended; None if unknown.
        files: SHA-256 of the weight, configuration and tokenizer files.
        fingerprint: Covers files, labels, text and decision.
    """

    schema_version: int = SCHEMA_VERSION
    task: Task
    label_names: tuple[str, ...] = Field(min_length=2)
    model: Literal["transformers", "tfidf"] = "transformers"
    text: TextRecipe
    max_length: int = Field(ge=4)
    truncation: LongText = KeepHead()
    decision: Decision
    job: PlainData
    data: PlainData
    versions: dict[str, str]
    metrics: dict[str, dict[str, int | float | None]]
    positive: str | None = None
    warnings: tuple[str, ...] = ()
    shipped: Shipped | None = None
    files: dict[Annotated[str, Field(pattern=r"^[^/]+$")], str] = {}
    fingerprint: str = ""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Refuse inconsistent fields, which would otherwise fail only during scoring."""
        if len(set(self.label_names)) < len(self.label_names):
            raise ValueError("label_names must be distinct")
        if self.positive is not None and self.positive not in self.label_names:
            raise ValueError("positive must be one of label_names")
        if not self.decision.fits(len(self.label_names)):
            raise ValueError("decision must have as many labels as label_names")
        for problem in self.truncation.problems(self.max_length):
            raise ValueError(f"truncation.{problem.path} {problem.allowed}")
        return self

    @property
    def is_linear(self) -> bool:
        """Whether the model is linear: no torch, no GPU, always fp32."""
        return self.model == "tfidf"

    @property
    def read(self) -> str:
        """What is read of long texts, in words."""
        return "whole texts" if self.is_linear else self.truncation.words(self.max_length)

    @property
    def gains(self) -> list[str]:
        """How much better it is than the linear baseline, by split; empty without one."""
        if LINEAR_METRICS not in self.data:
            return []
        metric = self.job["training"]["metric"]
        found = (against_linear(figures, metric, s) for s, figures in self.metrics.items())
        return [f"{line}." for line in found if line is not None]

    @property
    def origin(self) -> str:
        """Where the model comes from, in words."""
        if self.is_linear:
            return "Linear model of TF-IDF vectors, fitted with scikit-learn"
        return f"Fine-tuned from {self.job['model']['base']}{self.layers}"

    @property
    def layers(self) -> str:
        """How many layers of the base were kept, in words; empty if all were."""
        layers = self.job["model"].get("layers")
        return f", its first {counted(layers, 'layer')}" if layers else ""

    @property
    def targets(self) -> list[str]:
        """What was learned from soft labels and row weights, in words."""
        data, found = self.job["data"], []
        labels = data.get("labels", {})
        if labels.get("kind") == "probabilities":
            column = labels["column"] or f"{labels['prefix']}…"
            found.append(f"soft labels: probabilities in {column}")
        if data.get("weight") is not None:
            found.append(f"train rows weighted by column {data['weight']}; metrics are unweighted")
        return found

    @property
    def adapt(self) -> Adapt:
        """How the base was adapted."""
        adapt: Adapt = TypeAdapter(Adapt).validate_python(self.job["model"].get("adapt", "full"))
        return adapt

    @property
    def space(self) -> LabelSpace:
        """The labels."""
        return LabelSpace(self.task, self.label_names, self.positive)
