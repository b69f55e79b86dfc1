"""Distributed training of multiclass and multilabel text classifiers on Ray, and scoring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clftask.commands.prevalence import Prevalence
    from clftask.models.prediction import Predictor

__all__ = ["__version__", "load", "prevalence", "register"]

__version__ = "0.1.0"


def load(bundle: str, device: str | None = None, precision: str = "fp32") -> Predictor:
    """Load a bundle for use in Python: `clftask.load("runs/name/bundle").predict(texts)`.

    Args:
        bundle: A bundle's folder or URL.
        device: cpu, cuda …; None selects a GPU if one is available.
        precision: fp32, as in all commands and in plain transformers; or bf16, fp16.
            auto is fp32.

    Raises:
        DataError: The bundle is missing or incomplete.
        ConfigError: The device does not support the precision.
    """
    from clftask.models.predictor import load as open_bundle

    return open_bundle(bundle, device, precision)


def prevalence(
    scores: str,
    audit: Any,
    by: str | None = None,
    labels: str | None = None,
    delimiter: str | None = None,
) -> Prevalence:
    """Estimate the shares of labels in a scored corpus: `clftask.prevalence(scores, audit)`.

    Args:
        scores: A complete score table with the layout wide or list.
        audit: A table (path, DataFrame, Arrow table or dict of columns) with the true labels of a
            uniform random sample of its rows, and their ids.
        by: A kept column: shares for each of its values, too.
        labels: The column of the true labels; None: `label` or `labels`, or one per label.
        delimiter: Between the labels of a row, if the column is text; None: `|`.

    Raises:
        ConfigError: A delimiter was given, but the column is not text with several labels.
        DataError: A table is missing, incomplete or damaged, or the two do not fit each other.
    """
    from clftask.commands.prevalence import prevalence as estimate

    return estimate(scores, audit, by, labels, delimiter=delimiter)


def register() -> None:
    """Register clftask's classes with transformers, so that `from_pretrained` loads their bundles.

    They are the MLP head, and the adapters that a bundle keeps apart from the base.

    `clftask.load` and the commands call this themselves. Importing transformers takes seconds.
    """
    from clftask.models import adapter, mlp

    mlp.register()
    adapter.register()
