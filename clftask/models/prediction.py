"""Predictions of texts, by any kind of bundle."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clftask.array_types import Float32
from clftask.components.labels import Task
from clftask.errors import DataError, Problem
from clftask.messages import counted
from clftask.models.answers import Answers
from clftask.models.bundle_meta import BundleMeta
from clftask.models.predict_input import as_columns

NUM_SHOWN = 5  # predictions, and label names, in a repr


@dataclass(frozen=True, repr=False)
class Prediction:
    """The predictions for some texts.

    Attributes:
        labels: A label per text (multiclass; None where the bundle abstains), or a list of
            labels per text (multilabel).
        probabilities: (rows, labels) float32, in the order of `label_names`.
        label_names: The labels.
        task: multiclass or multilabel.
        label_sets: The prediction sets, a list of labels per text, if the bundle has a rule.
    """

    labels: list[Any]
    probabilities: Float32
    label_names: tuple[str, ...]
    task: Task
    label_sets: list[list[str]] | None = None

    def __repr__(self) -> str:
        num_rows = len(self.labels)
        shown = ", ".join(map(repr, self.labels[:NUM_SHOWN]))
        more = ", …" if num_rows > NUM_SHOWN else ""
        about = f"{self.task}, {counted(len(self.label_names), 'label')}"
        return f"<Prediction of {counted(num_rows, 'text')} ({about}): {shown}{more}>"

    def _repr_html_(self) -> str:
        return str(self.to_pandas()._repr_html_())

    def __len__(self) -> int:
        return len(self.labels)

    def to_pandas(self) -> Any:
        """Return a DataFrame: the label(s), then a column of probabilities for each label."""
        import pandas as pd

        frame = pd.DataFrame(self.probabilities, columns=[f"p_{n}" for n in self.label_names])
        frame.insert(0, "labels" if self.task == "multilabel" else "label", self.labels)
        if self.label_sets is not None:
            frame.insert(1, "label_set", self.label_sets)
        return frame


class Predictor(ABC):
    """Base class of scorers: a bundle's model on a device.

    Attributes:
        meta: The content of the bundle's `clftask.json`.
        path: The bundle's path, if it has one.
        device: The model's device; its `type` is cpu or cuda.
        precision: fp32, bf16 or fp16.
        is_compiled: Whether the model's layers are compiled.
    """

    meta: BundleMeta
    path: str
    device: Any
    precision: str

    @property
    @abstractmethod
    def is_compiled(self) -> bool: ...

    @property
    def reading(self) -> str | None:
        """A hash of what decides on the tokens: equal ones give the same tokens. None: unknown."""
        return None

    @abstractmethod
    def about(self) -> str:
        """Return where the model comes from."""

    @abstractmethod
    def tokenise(self, texts: Any, pairs: Any | None) -> pa.Table:
        """Return what `logits` reads of (rows,) Arrow strings, one row each; and is_truncated."""

    @abstractmethod
    def logits(self, tokens: pa.Table) -> Float32:
        """Return (rows, labels) float32 logits, in the order of the rows.

        Raises:
            ModelError: The model fails, or logits are NaN or infinite.
        """

    @abstractmethod
    def tokenise_in(self, processes: int) -> None:
        """Tokenise in so many processes from now on; 0: in threads of this one."""

    @abstractmethod
    def lengths(self, texts: Any, pairs: Any | None, tokens: pa.Table) -> Any:
        """Return the (rows,) numbers of tokens, including truncated ones."""

    @property
    @abstractmethod
    def num_special(self) -> int:
        """The special tokens of one model input."""

    @abstractmethod
    def compile(self, sample: pa.Table) -> bool:
        """Compile the model; return whether it succeeded.

        Args:
            sample: Tokens for the first call.
        """

    def __repr__(self) -> str:
        names = self.meta.label_names
        more = ", …" if len(names) > NUM_SHOWN else ""
        labels = f"{counted(len(names), 'label')} ({', '.join(map(repr, names[:NUM_SHOWN]))}{more})"
        about = f"{self.meta.task}, {labels}, {self.about()}"
        where = f" {self.path}" if self.path else ""
        return f"<Scorer of bundle{where}: {about}; {self.precision} on {self.device}>"

    def probabilities(self, tokens: pa.Table) -> Float32:
        """Return (rows, labels) float32 probabilities, with the bundle's calibration."""
        return self.meta.decision.probabilities(self.logits(tokens), self.meta.task)

    def answers(self, tokens: pa.Table) -> Answers:
        """Return the decided rows of `tokens`."""
        outcome = self.meta.decision.outcome(self.probabilities(tokens), self.meta.task)
        return Answers(outcome, tokens["is_truncated"].to_numpy())

    def predict(self, texts: Any) -> Prediction:
        """Return labels and probabilities of texts.

        Args:
            texts: One text; a list, an array or a Series of texts; or a table with the columns
                that the bundle was trained on: a DataFrame (pandas, Polars), an Arrow table, a
                `datasets.Dataset`, a dict of columns, or a list of dicts. A pair bundle takes
                (text, second text) tuples, or a table.

        Raises:
            DataError: A text is missing or not a string; names the row or the column.
        """
        text, pair = as_columns(texts, self.meta.text)
        self._refuse_missing(text, pair)
        probabilities = self.probabilities(self.tokenise(text, pair))
        names, task = self.meta.label_names, self.meta.task
        rule = self.meta.decision.sets
        sets = None if rule is None else self._names(rule.of(probabilities))
        return Prediction(self._labels(probabilities), probabilities, names, task, sets)

    def _refuse_missing(self, text: Any, pair: Any | None) -> None:
        for column in [text] if pair is None else [text, pair]:
            row = pc.index(column.is_valid(), False).as_py()
            if row >= 0:
                remedy = "Remove such rows."
                raise DataError(Problem(f"texts, row {row}", None, "is null or blank", remedy))

    def _labels(self, probabilities: Float32) -> list[Any]:
        lists = self._names(self.meta.decision.decide(probabilities, self.meta.task))
        if self.meta.task == "multilabel":
            return lists
        return [labels[0] if labels else None for labels in lists]

    def _names(self, flags: Any) -> list[list[str]]:
        names = np.array(self.meta.label_names, dtype=object)
        return [names[row].tolist() for row in flags]
