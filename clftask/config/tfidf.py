"""The linear baseline as a model of a training job: TF-IDF and logistic regression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from clftask.components.losses import LossSpec
from clftask.components.truncation import KeepHead, LongTextSpec
from clftask.errors import Problem
from clftask.spec import Spec

TFIDF = "tfidf"
_TEXT_BYTES = 30  # of an n-gram
NO_LIMIT = 2**31 - 1  # tokens: linear models read whole texts
_PRETRAINED = "It is for pretrained models; model.base: tfidf reads whole texts. Remove it."
_OF_ENCODER = "It is for pretrained models. Remove it, or use another model.base."


def _rising(value: tuple[int, int]) -> tuple[int, int]:
    if not 1 <= value[0] <= value[1] <= 10:
        raise ValueError("must be [shortest, longest], from 1 to 10")
    return value


Ngrams = Annotated[tuple[int, int], AfterValidator(_rising)]


class TfidfSpec(Spec):
    """TF-IDF vectors of n-grams for logistic regression, as scikit-learn computes them.

    Attributes:
        words: Shortest and longest n-gram of words; None: none.
        chars: Shortest and longest n-gram of characters within a word; None: none.
        min_df: The number of train rows in which an n-gram occurs at least.
        max_features: The most frequent n-grams of words, and as many of characters, are used.
        C: Inverse strength of the L2 regularisation.
    """

    TAG: ClassVar[str] = TFIDF
    INSTEAD: ClassVar[Mapping[str, str]] = {
        "max_length": _PRETRAINED,
        "long_text": _PRETRAINED,
        "head": _OF_ENCODER,
        "adapt": _OF_ENCODER,
        "layers": _OF_ENCODER,
        "ngrams": "Use model.words or model.chars.",
        "ngram_range": "Use model.words or model.chars.",
    }

    base: Literal["tfidf"]
    words: Ngrams | None = (1, 2)
    chars: Ngrams | None = None
    min_df: int = Field(2, ge=1)
    max_features: int = Field(50_000, ge=1, le=10_000_000)
    C: float = Field(10.0, gt=0)

    @model_validator(mode="after")
    def _has_features(self) -> Self:
        if not self.ngrams:
            raise ValueError("words and chars must not both be null; Set words: [1, 2]")
        return self

    @property
    def ngrams(self) -> dict[str, Ngrams]:
        """The n-grams by kind: words, chars."""
        found = {"words": self.words, "chars": self.chars}
        return {kind: ngrams for kind, ngrams in found.items() if ngrams is not None}

    @property
    def tokens(self) -> tuple[str, int, LongTextSpec]:
        """The fields that the prepared texts depend on: none."""
        return self.base, NO_LIMIT, KeepHead()

    def num_whole(self, num_special: int) -> int:
        """Return the length of the longest text that is read whole: all are."""
        return NO_LIMIT

    def num_bytes(self, num_labels: int) -> int:
        """Return about the largest size of a bundle: of each n-gram text, frequency and weights."""
        return len(self.ngrams) * self.max_features * (_TEXT_BYTES + 8 + 4 * num_labels)


def unused_settings(
    training: Spec, loss: LossSpec, scaling: Spec, more: Mapping[str, Any]
) -> list[Problem]:
    """Return the settings of a job that a linear model does not have.

    Args:
        training: The job's section; its `metric` is used.
        loss: The job's loss.
        scaling: The job's section; its `cpus_per_worker` is used.
        more: Other settings by path; empty or false: not set.
    """
    remedies = {
        "training.weight_decay": "Use model.C, the inverse strength of regularisation.",
        "scaling.workers": "Remove it: one process fits the model.",
        "scaling.use_gpu": "Remove it: CPUs fit the model.",
        "baseline": "Remove it: the job itself trains the baseline.",
        "loss.kind": "Use auto; class_weights: balanced gives rare labels more weight.",
    }
    names = [n for n in type(training).model_fields if n in training.model_fields_set - {"metric"}]
    found = {f"training.{name}": getattr(training, name) for name in names}
    others: dict[str, Any] = {"loss.kind": None if loss.is_cross_entropy else loss.kind}
    others["loss.label_smoothing"] = getattr(loss, "label_smoothing", 0) or None
    for name in ("workers", "use_gpu", "max_failures", "shard"):
        value, default = getattr(scaling, name), type(scaling).model_fields[name].default
        others[f"scaling.{name}"] = None if value == default or value is False else value
    others |= {path: value or None for path, value in more.items()}
    found |= {path: value for path, value in others.items() if value is not None}
    allowed = "is not for model.base: tfidf"
    return [
        Problem(
            path,
            value.dump() if isinstance(value, Spec) else value,
            allowed,
            remedies.get(path, "Remove it."),
        )
        for path, value in found.items()
    ]
