"""The linear model: TF-IDF vectors of n-grams, and a weight per n-gram and label. No torch.

Vectors are those of scikit-learn's TfidfVectorizer. Terms are stored in JSON, numbers
in safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from clftask.array_types import Array, Float32, Float64
from clftask.config.tfidf import Ngrams, TfidfSpec
from clftask.errors import DataError, Problem
from clftask.io import storage
from clftask.io.strict_json import to_json

WEIGHTS, VOCABULARY = "model.safetensors", "vocabulary.json"
AGAIN = "Copy the bundle again, or retrain."
# By kind of n-gram. scikit-learn's own pattern of a word leaves out single letters.
_ANALYZERS: dict[str, dict[str, Any]] = {
    "words": {"analyzer": "word", "token_pattern": r"(?u)\b\w+\b"},
    "chars": {"analyzer": "char_wb"},
}


def whole_texts(texts: Any, pairs: Any | None) -> list[str]:
    """Return texts, each with its second text, as Python strings.

    Args:
        texts: (rows,) Arrow strings without nulls.
        pairs: (rows,) the second texts of a pair task, or None.
    """
    first: list[str] = texts.to_pylist()
    if pairs is None:
        return first
    return [f"{text}\n{pair}" for text, pair in zip(first, pairs.to_pylist(), strict=True)]


class Vectorizer:
    """TF-IDF vectors of n-grams of words and characters, side by side.

    Args:
        parts: Fitted vectorizers of scikit-learn by kind of n-gram.
    """

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self.parts = parts

    @classmethod
    def fit(cls, spec: TfidfSpec, texts: Sequence[str]) -> tuple[Self, Any]:
        """Return a fitted vectorizer, and the (rows, n-grams) sparse matrix of the texts.

        Raises:
            DataError: No n-gram is frequent enough.
        """
        parts, found = {}, []
        for kind, ngrams in spec.ngrams.items():
            most = {"min_df": spec.min_df, "max_features": spec.max_features}
            parts[kind] = _vectorizer(kind, ngrams, **most)
            try:
                found.append(parts[kind].fit_transform(texts))
            except ValueError:  # an empty vocabulary
                allowed = f"no n-gram of {kind} occurs in so many train rows"
                other = " and model.chars: [2, 4]" if kind == "words" else ""
                remedy = f"Lower it, or set model.{kind}: null{other}."
                raise DataError(Problem("model.min_df", spec.min_df, allowed, remedy)) from None
        return cls(parts), _side_by_side(found)

    def transform(self, texts: Sequence[str]) -> Any:
        """Return the (rows, n-grams) sparse float64 matrix of texts."""
        return _side_by_side([part.transform(texts) for part in self.parts.values()])

    def as_json(self) -> dict[str, Any]:
        """Return the terms in the order of their columns, and how they are found."""
        return {
            kind: {"ngrams": part.ngram_range, "terms": part.get_feature_names_out().tolist()}
            for kind, part in self.parts.items()
        }

    def idf(self) -> dict[str, Float64]:
        """Return the inverse document frequencies by kind of n-gram."""
        return {f"idf.{kind}": part.idf_ for kind, part in self.parts.items()}

    @classmethod
    def load(cls, content: Mapping[str, Any], idf: Mapping[str, Float64]) -> Self:
        """Return the vectorizer of the results of `as_json` and `idf`."""
        parts = {}
        for kind, found in content.items():
            low, high = found["ngrams"]
            places = {term: column for column, term in enumerate(found["terms"])}
            parts[kind] = _vectorizer(kind, (low, high), vocabulary=places)
            parts[kind].idf_ = idf[f"idf.{kind}"]
        return cls(parts)


def _vectorizer(kind: str, ngrams: Ngrams, **options: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=ngrams, sublinear_tf=True, **_ANALYZERS[kind], **options)


def _side_by_side(parts: Sequence[Any]) -> Any:
    from scipy.sparse import csr_array, hstack

    return csr_array(parts[0]) if len(parts) == 1 else csr_array(hstack(parts))


@dataclass(frozen=True)
class LinearModel:
    """A linear classifier of texts.

    Attributes:
        vectorizer: Makes vectors of texts.
        weights: (n-grams, labels) float64.
        bias: (labels,) float64.
    """

    vectorizer: Vectorizer
    weights: Float64
    bias: Float64

    @classmethod
    def of(cls, vectorizer: Vectorizer, weights: Array, bias: Array) -> Self:
        """Return a model of (labels, n-grams) weights, with the precision in which it is saved."""
        rounded = np.asarray(weights, np.float32).T
        return cls(vectorizer, np.ascontiguousarray(rounded, np.float64), np.asarray(bias))

    def logits(self, vectors: Any) -> Float32:
        """Return (rows, labels) float32 logits of the vectors of texts."""
        return np.asarray(vectors @ self.weights + self.bias, np.float32)

    def save_pretrained(self, folder: Path) -> None:
        """Write the model into a folder."""
        from safetensors.numpy import save_file

        numbers = {"weight": np.ascontiguousarray(self.weights.T, np.float32), "bias": self.bias}
        save_file({**numbers, **self.vectorizer.idf()}, folder / WEIGHTS)
        text = to_json(self.vectorizer.as_json(), ensure_ascii=False)
        (folder / VOCABULARY).write_text(text, encoding="utf-8")

    @classmethod
    def open(cls, folder: Path, num_labels: int) -> Self:
        """Read the model in a folder.

        Raises:
            DataError: A file is missing or damaged, or they do not match.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        content = storage.read_json(str(folder / VOCABULARY), AGAIN)
        try:
            numbers = load_file(folder / WEIGHTS)
            vectorizer = Vectorizer.load(content, numbers)
            size = sum(len(part.vocabulary_) for part in vectorizer.parts.values())
            found = numbers["weight"].shape, numbers["bias"].shape
        except (OSError, SafetensorError, ValueError, LookupError, TypeError):
            raise _damaged(folder, "is damaged") from None
        if found != ((num_labels, size), (num_labels,)):
            raise _damaged(folder, f"does not match {VOCABULARY} or the labels")
        return cls.of(vectorizer, numbers["weight"], numbers["bias"])


def _damaged(folder: Path, allowed: str) -> DataError:
    return DataError(Problem(str(folder / WEIGHTS), None, allowed, AGAIN))
