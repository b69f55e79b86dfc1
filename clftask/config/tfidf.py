"""The linear baseline as a model of a training job: TF-IDF and logistic regression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from clftask.components.truncation import KeepHead, LongTextSpec
from clftask.spec import Spec

TFIDF = "tfidf"
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
        "ngrams": "Use model.words or model.chars.",
        "ngram_range": "Use model.words or model.chars.",
    }

    base: Literal["tfidf"]
    words: Ngrams | None = (1, 2)
    chars: Ngrams | None = None
    min_df: int = Field(2, ge=1)
    max_features: int = Field(50_000, ge=1, le=10_000_000)
    C: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _has_features(self) -> Self:
        if not self.ngrams:
            raise ValueError("words and chars must not both be null")
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

    def num_weights(self, num_labels: int) -> int:
        """Return the highest number of weights."""
        return len(self.ngrams) * self.max_features * (num_labels + 1)
