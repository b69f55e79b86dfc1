"""The scorer of a linear bundle: sparse vectors times weights. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clftask.array_types import Float32
from clftask.data.tokenization import distinct
from clftask.errors import ConfigError, Problem
from clftask.models.bundle_meta import BundleMeta
from clftask.models.linear import LinearModel, whole_texts
from clftask.models.prediction import Predictor

_NO_GPU = (None, "auto", False, "cpu")


@dataclass(frozen=True)
class Cpu:
    """The device of a linear model, with what torch's devices have."""

    type: ClassVar[str] = "cpu"

    def __str__(self) -> str:
        return self.type


class LinearScorer(Predictor):
    """A bundle's linear model.

    Args:
        model: The model.
        meta: The content of the bundle's `clftask.json`.
        path: The bundle's path, if it has one.
    """

    precision = "fp32"
    device = Cpu()
    is_compiled = False
    num_special = 0

    def __init__(self, model: LinearModel, meta: BundleMeta, path: str = "") -> None:
        self.model, self.meta, self.path = model, meta, path

    def about(self) -> str:
        """Return what the model is."""
        return "linear model of TF-IDF vectors"

    def tokenise(self, texts: Any, pairs: Any | None) -> pa.Table:
        """Return columns (list<int32>) and values (list<double>) of TF-IDF vectors; is_truncated.

        Equal texts are vectorised once.
        """
        if not len(texts):
            return self.tokenise(pa.array([""]), None).slice(1)
        first, place = distinct(texts, pairs)
        some = pa.array(first)
        pair = None if pairs is None else pairs.take(some)
        found = self.model.vectorizer.transform(whole_texts(texts.take(some), pair))
        found = found if len(first) == len(place) else found[place]
        ends = pa.array(found.indptr.astype(np.int64))
        lists = [
            pa.LargeListArray.from_arrays(ends, pa.array(values))
            for values in (found.indices.astype(np.int32), found.data)
        ]
        whole = pa.array(np.zeros(len(texts), np.bool_))
        return pa.table({"columns": lists[0], "values": lists[1], "is_truncated": whole})

    def tokenise_in(self, processes: int) -> None:
        """Do nothing: vectors are made by a thread."""

    def logits(self, tokens: pa.Table) -> Float32:
        """Return (rows, labels) float32 logits, in the order of the rows."""
        from scipy.sparse import csr_array

        columns, values = (tokens[name].combine_chunks() for name in ("columns", "values"))
        ends = np.concatenate([[0], np.cumsum(pc.list_value_length(columns).to_numpy())])
        parts = values.flatten().to_numpy(), columns.flatten().to_numpy(), ends
        shape = tokens.num_rows, len(self.model.weights)
        return self.model.logits(csr_array(parts, shape=shape))

    def lengths(self, texts: Any, pairs: Any | None, tokens: pa.Table) -> Any:
        """Return the (rows,) numbers of words, as blanks separate them."""
        return num_words(texts, pairs)

    def compile(self, sample: pa.Table) -> bool:
        """Return False: there is nothing to compile."""
        return False


def num_words(texts: Any, pairs: Any | None) -> Any:
    """Return the (rows,) numbers of words of texts and their second texts, at least 1."""
    counts = [
        pc.list_value_length(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(column)))
        for column in ([texts] if pairs is None else [texts, pairs])
    ]
    total = counts[0] if pairs is None else pc.add(*counts)
    return pc.max_element_wise(total, 1).cast(pa.int32())


def open_linear(folder: str, meta: BundleMeta, path: str = "") -> LinearScorer:
    """Open the linear model of a bundle's local folder.

    Raises:
        DataError: It cannot be opened, or does not match `meta`.
    """
    return LinearScorer(LinearModel.open(Path(folder), len(meta.label_names)), meta, path)


def check_linear(meta: BundleMeta, precision: str, gpu: Mapping[str, Any]) -> None:
    """Refuse settings that a linear model does not have.

    Args:
        meta: Of any bundle.
        precision: What is asked for.
        gpu: Fields that may ask for a GPU: a device, whether to use GPUs, or None.

    Raises:
        ConfigError: Names all of them.
    """
    if not meta.is_linear:
        return
    found = []
    if precision not in ("auto", "fp32"):
        allowed = "must be fp32 or auto: the bundle's model is linear"
        found.append(Problem("precision", precision, allowed))
    allowed = "the bundle's model is linear: it needs no GPU"
    asked = {field: value for field, value in gpu.items() if value not in _NO_GPU}
    found += [Problem(field, value, allowed, "Remove it.") for field, value in asked.items()]
    if found:
        raise ConfigError(*found)
