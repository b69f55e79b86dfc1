"""Fits the linear model of a job, evaluates it and writes its bundle. No torch, no Ray.

It runs in the driver: the rows are in its memory already, and a fit takes seconds to minutes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from clftask.array_types import Float32
from clftask.components.labels import SOFT, multi_hot
from clftask.components.losses import AutoLoss
from clftask.config.tfidf import TFIDF, TfidfSpec
from clftask.config.train import TrainJob
from clftask.data.prepare import Prepared, beginnings
from clftask.data.targets import WEIGHT, targets_of, weights_of
from clftask.evaluation.baseline import COMPARED
from clftask.evaluation.evaluate import Evaluated, decide, labelled
from clftask.io.strict_json import strict, to_json
from clftask.io.tempdirs import temporary_folder
from clftask.messages import counted
from clftask.models.linear import LinearModel, Vectorizer, whole_texts
from clftask.models.linear_fit import fit_linear, mean_loss, num_threads, positive_weights
from clftask.models.linear_scorer import num_words
from clftask.training.publishing import publish_model
from clftask.training.run_log import RunLog
from clftask.training.validation import validation_metrics
from clftask.training.work import Work

_log = logging.getLogger(__name__)
Show = Callable[[dict[str, Any]], None]


def work_of(job: TrainJob, run: str, prepared: Prepared) -> Work:
    """Return the inputs of a run: its splits are texts, not tokens."""
    data = {"fingerprint": prepared.fingerprint, "report": prepared.report.as_json()}
    preamble = "".join(f"{line}\n" for line in prepared.report.lines())
    return Work(job, run, texts_of(prepared), prepared.space.names, data, preamble)


def texts_of(prepared: Prepared) -> dict[str, pa.Table]:
    """Return text, text_pair, labels, group and the columns of `data.targets` of each split."""
    names = ("text", "text_pair", "labels", "group", SOFT, WEIGHT)
    return {
        split: table.select([n for n in names if n in table.column_names])
        for split, table in prepared.tables.items()
    }


@dataclass(frozen=True)
class Vectors:
    """A vectorizer, and the (rows, n-grams) vectors of the train rows that it was fitted on."""

    vectorizer: Vectorizer
    train: Any


def vectorise(work: Work) -> Vectors:
    """Fit the vectorizer of a job.

    Raises:
        DataError: No n-gram is frequent enough.
    """
    assert isinstance(work.job.model, TfidfSpec)
    return Vectors(*Vectorizer.fit(work.job.model, _texts(work.tables["train"])))


def _texts(table: pa.Table) -> list[str]:
    pairs = table["text_pair"] if "text_pair" in table.column_names else None
    return whole_texts(table["text"], pairs)


@dataclass(frozen=True)
class Fitted:
    """A linear model and its logits.

    Attributes:
        model: The model.
        logits: (rows, labels) of validation, and of test if there is one.
        warnings: Warnings about the fit.
    """

    model: LinearModel
    logits: dict[str, Float32]
    warnings: list[str]


def fit(work: Work, vectors: Vectors) -> Fitted:
    """Fit the model of a job; compute the logits of the held-out rows."""
    job = work.job
    assert isinstance(job.model, TfidfSpec)
    train, num_labels = work.tables["train"], len(work.label_names)
    learned = targets_of(train, num_labels), weights_of(train)
    given = vectors.vectorizer, vectors.train, *learned
    model, warnings = fit_linear(job, job.model.C, *given)
    return Fitted(model, held_out(work, model), warnings)


def held_out(work: Work, model: LinearModel) -> dict[str, Float32]:
    """Return the (rows, labels) logits of validation, and of test if there is one."""
    return {
        split: model.logits(model.vectorizer.transform(_texts(work.tables[split])))
        for split in ("validation", "test")
        if split in work.tables
    }


def _labels(work: Work, split: str) -> Float32:
    """Return the (rows, labels) indicator matrix of the decided labels of a split."""
    codes = work.tables[split]["labels"].combine_chunks()
    return multi_hot(codes, len(work.label_names))


def validation_figures(work: Work, logits: Float32) -> dict[str, float]:
    """Return the loss and the metrics of validation, as an epoch of other models has them."""
    found = validation_metrics(work.job, work.space, logits, _labels(work, "validation"))
    return {"loss": _loss(work, "validation", logits), **found}


def _loss(work: Work, split: str, logits: Float32) -> float:
    """Return the mean training loss of a split; row weights do not count."""
    train, num_labels = work.tables["train"], len(work.label_names)
    of_train = targets_of(train, num_labels), weights_of(train)
    weights = positive_weights(work.job.loss, *of_train)
    return mean_loss(work.job, logits, targets_of(work.tables[split], num_labels), weights)


def evaluate(work: Work, fitted: Fitted) -> Evaluated:
    """Fit the decision and evaluate validation and test."""
    splits = {}
    for split, logits in fitted.logits.items():
        table = work.tables[split]
        pairs = table["text_pair"] if "text_pair" in table.column_names else None
        shown = pa.table({"text": beginnings(table), "num_tokens": num_words(table["text"], pairs)})
        for name in {"group", SOFT} & set(table.column_names):
            shown = shown.append_column(name, table[name])
        splits[split] = labelled(shown, logits, _labels(work, split))
    found = decide(work.job, work.space, splits, work.data)
    for split, logits in fitted.logits.items():
        found.metrics[split]["loss"] = strict(_loss(work, split, logits))
    found.warnings.extend(fitted.warnings)
    return found


# ------------------------------------------------------------------ a run


def run(work: Work, vectors: Vectors, show: Show) -> dict[str, Any]:
    """Fit, evaluate and write the bundle; return the content of its `metrics.json`.

    Raises:
        StorageError: The bundle cannot be written.
    """
    log = RunLog(work.run, work.preamble)
    log.load()
    try:
        outcome = _run(work, vectors, log, show)
    except Exception as error:
        _log.exception("training failed")
        log.close(f"failed: {error}")
        raise
    log.close("done: " + to_json(outcome["metrics"]["validation"]))
    return outcome


def _run(work: Work, vectors: Vectors, log: RunLog, show: Show) -> dict[str, Any]:
    started, rows = time.perf_counter(), work.tables["train"].num_rows
    threads = counted(num_threads(work.job), "thread")
    log.add_line(f"{counted(vectors.train.shape[1], 'n-gram')}; {threads} on cpu, fp32")
    fitted = fit(work, vectors)
    seconds = time.perf_counter() - started
    metrics = validation_figures(work, fitted.logits["validation"])
    record = {"time": round(time.time(), 3), "step": 1, "epoch": 1}
    record |= {f"eval_{name}": value for name, value in metrics.items()}
    log.records = [record]
    show({**record, "max_steps": 1})
    found = evaluate(work, fitted)
    outcome = found.content | outcome_of(work, time.perf_counter() - started, rows / seconds)
    of_model = fitted.model, None, found.decision, found, outcome
    with temporary_folder() as scratch:
        publish_model(work, *of_model, Path(scratch, "bundle"), [], log.add_line)
    for line in found.warnings:
        log.add_line(f"warning: {line}")
    return outcome


def outcome_of(work: Work, seconds: float, samples_per_s: float) -> dict[str, Any]:
    """Return the part of `metrics.json` on the training: one pass over all rows."""
    return {
        "epochs": 1,
        "best_step": None,
        "steps": 1,
        "seconds": round(seconds, 1),
        "samples_per_s": round(samples_per_s, 2),
        "workers": 1,
        "label_names": list(work.label_names),
        "shipped": None,
    }


# ------------------------------------------------------------------ the baseline of other models


def baseline(job: TrainJob, prepared: Prepared) -> dict[str, dict[str, float | None]]:
    """Return the metrics of a linear model on a job's rows, by split and name.

    Raises:
        DataError: No n-gram is frequent enough.
    """
    loss = job.loss if job.loss.is_cross_entropy else AutoLoss()
    model = TfidfSpec(base=TFIDF)
    linear_job = job.model_copy(update={"model": model, "loss": loss})
    work = work_of(linear_job, "", prepared)
    found = evaluate(work, fit(work, vectorise(work)))
    names = (*COMPARED, "log_loss", job.training.metric)
    return {
        split: {name: metrics[name] for name in dict.fromkeys(names) if name in metrics}
        for split, metrics in found.metrics.items()
    }
