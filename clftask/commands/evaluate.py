"""Evaluate a bundle on a labelled table, or refit its decision there. Without Ray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clftask.components.decision.calibration import Calibration
from clftask.components.decision.decision import Decision
from clftask.components.labels import LabelSpace, Task, multi_hot
from clftask.config.train import TrainJob
from clftask.data import training_rows
from clftask.data.prepare import beginnings, read_labelled
from clftask.data.summary import DataReport
from clftask.errors import ConfigError, Problem
from clftask.evaluation.baseline import majority_label, weaknesses
from clftask.evaluation.evaluate import (
    LINEAR_METRICS,
    Evaluated,
    Figures,
    Labelled,
    decide,
    labelled,
    measured,
)
from clftask.io import filesystems, listing, storage
from clftask.io.tempdirs import temporary_folder
from clftask.messages import counted
from clftask.models import bundle
from clftask.models.bundle_meta import BundleMeta
from clftask.models.loading import output_layer, quiet_loading
from clftask.models.prediction import Predictor
from clftask.models.predictor import default_device, open_scorer
from clftask.report.bundle_page import page_of
from clftask.training import run_dir

FEW_ROWS = 100
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Evaluation(Figures):
    """A bundle's figures on a labelled table.

    Attributes:
        bundle: Its path.
        table: The table's path.
        split: The split that was read, of a dataset that has several.
        task: multiclass or multilabel.
        metric: The training job's metric.
        rows: Number of rows.
        trained_on: Numbers of rows that the bundle was trained on, by split.
        warnings: Warnings about skipped rows, rows of the training data, and weak metrics.
    """

    bundle: str
    table: str
    split: str | None
    task: Task
    metric: str
    rows: int
    trained_on: dict[str, int]
    warnings: list[str]


@dataclass(frozen=True)
class LabelledBundle:
    """A bundle and its outputs on a labelled table.

    Attributes:
        meta: The bundle's description.
        folder: Its local folder.
        rows: Uncalibrated logits, and targets.
        texts: The texts of the rows.
        split: The split that was read, of a dataset that has several.
        known: Numbers of rows that the bundle was trained on, by split.
        warnings: Warnings about skipped rows and about rows of the training data.
        num_special: Special tokens of one model input.
    """

    meta: BundleMeta
    folder: str
    rows: Labelled
    texts: Any
    split: str | None
    known: dict[str, int]
    warnings: list[str]
    num_special: int

    def evaluation(
        self, bundle: str, table: str, figures: Figures, warnings: list[str], say: Say
    ) -> Evaluation:
        """Return the figures as a result; print the warnings."""
        lines = [f"warning: {warning}" for warning in warnings]
        for line in lines:
            say(line)
        return Evaluation(
            bundle=bundle,
            table=table,
            split=self.split,
            task=self.meta.task,
            metric=self.meta.job["training"]["metric"],
            rows=len(self.rows.logits),
            trained_on=self.known,
            warnings=[*self.warnings, *lines],
            **vars(figures),
        )


def evaluate_bundle(path: str, table: str, say: Say, split: str | None = None) -> Evaluation:
    """Evaluate a bundle, with its own decision, on a labelled table.

    Args:
        path: The bundle.
        table: Rows with the text and label columns of the training job.
        say: Prints a line for the user.
        split: The split of a dataset that has several; None: test, or else the first one.

    Raises:
        DataError: There is no bundle, or the table does not match it.
    """
    with temporary_folder() as scratch:
        found = _labelled_bundle(path, table, scratch, say, split)
    meta, rows = found.meta, found.rows
    again = {"calibration": meta.decision.calibration.model_copy(update={"is_folded": False})}
    decision = meta.decision.model_copy(update=again)  # the logits are uncalibrated
    outcome = decision.apply(rows.logits, meta.task)
    num_whole = meta.truncation.num_whole(meta.max_length, found.num_special)
    majority = majority_label(meta.data, meta.label_names, rows.targets)
    training = meta.job["training"]
    of_bundle = decision, meta.space, num_whole, majority, training["metric"]
    figures = measured(rows, outcome, *of_bundle)
    of_table = figures.metrics, outcome, meta.space, majority, table
    optimizer = None if meta.is_linear else training["optimizer"]
    warnings = weaknesses(*of_table, optimizer)
    return found.evaluation(path, table, figures, warnings, say)


def decide_bundle(
    path: str,
    table: str,
    overrides: list[str],
    output: str | None,
    say: Say,
    split: str | None = None,
) -> Evaluation:
    """Fit a bundle's decision on a labelled table, without training.

    Args:
        path: The bundle.
        table: Rows with the text and label columns of the training job.
        overrides: Fields of the training job's decision: `decision.threshold=per_label`.
        output: The path of the new bundle; None replaces the old one.
        say: Prints a line for the user.
        split: The split of a dataset that has several; None: test, or else the first one.

    Returns:
        The figures of the new bundle, cross-fitted: the decision is fitted on the other folds.

    Raises:
        ConfigError: An override is not a field of the decision.
        DataError: There is no bundle, or the table does not match it.
    """
    job = _with_decision(bundle.read_meta(path), overrides)
    place = _place(path, output)
    with temporary_folder() as scratch:
        found = _labelled_bundle(path, table, scratch, say, split)
        if len(found.rows.logits) < FEW_ROWS:
            rows = counted(len(found.rows.logits), "row")
            say(f"warning: the decision is fitted on only {rows} and may overfit")
        # The linear baseline was measured on other rows.
        data = {k: v for k, v in found.meta.data.items() if k != LINEAR_METRICS}
        splits = {"validation": found.rows}
        refitted = decide(job, found.meta.space, splits, data, found.num_special)
        figures = refitted.figures["validation"]
        result = found.evaluation(place, table, figures, refitted.warnings, say)
        _rewrite(found, job, refitted, table, place, _records(path), say)
    return result


def _place(path: str, output: str | None) -> str:
    """Return the path of the new bundle.

    Raises:
        ConfigError: The folder contains something else.
        StorageError: The folder cannot be written.
    """
    if output is None:
        place = filesystems.absolute(path)
    else:
        place = filesystems.absolute(output) if output else ""
        is_other = place and not bundle.is_there(place) and listing.list_files(place)
        if not place or is_other:
            allowed = "must be a new or empty folder, or an existing bundle to replace"
            raise ConfigError(Problem("--output", output, allowed, "Choose another folder."))
    storage.check_writable(place, "output")
    return place


def _with_decision(meta: BundleMeta, overrides: list[str]) -> TrainJob:
    """Return the bundle's training job with another decision."""
    foreign = [o for o in overrides if not o.startswith("decision.")]
    if foreign:
        allowed = "must be a field of decision: nothing else can change without training"
        remedy = "Train again with `clftask train`."
        raise ConfigError(*(Problem(o, None, allowed, remedy) for o in foreign))
    return TrainJob.load(meta.job, overrides)


def _labelled_bundle(
    path: str, table: str, scratch: str, say: Say, split: str | None
) -> LabelledBundle:
    folder, meta = bundle.fetch(path, scratch)
    rows, report = read_table(TrainJob.load(meta.job), meta.space, table, say, split)
    warnings = report.warnings()
    known = training_rows.count_known(Path(folder), rows)
    if known:
        warnings.append(training_rows.warning(known, rows.num_rows))
        say(warnings[-1])
    scorer = opened(folder, meta)
    logits, tokens = scored(scorer, rows, say)
    raw = meta.decision.calibration.raw(logits)
    targets = multi_hot(rows["labels"].combine_chunks(), len(meta.label_names))
    num_tokens = scorer.lengths(*_texts(rows), tokens)
    shown = rows.set_column(rows.column_names.index("text"), "text", beginnings(rows))
    found = labelled(shown.append_column("num_tokens", num_tokens), raw, targets)
    read = report.split_read, known, warnings, scorer.num_special
    return LabelledBundle(meta, folder, found, rows, *read)


def read_table(
    job: TrainJob, space: LabelSpace, table: str, say: Say, split: str | None
) -> tuple[Any, DataReport]:
    """Return the rows of a labelled table and their report; see `read_labelled`."""
    report = DataReport()
    rows = read_labelled(job, space, table, report, split)
    if report.split_read is not None:
        others = ", ".join(report.other_splits)
        choice = f"; --split selects another: {others}" if others else ""
        say(f"reading split {report.split_read} of {table}{choice}")
    for line in report.warnings():
        say(line)
    return rows, report


def opened(folder: str, meta: BundleMeta) -> Predictor:
    """Open a bundle's local folder, in fp32: metrics must not depend on a machine's precision."""
    with quiet_loading():
        return open_scorer(folder, meta, default_device())


def scored(scorer: Predictor, rows: Any, say: Say) -> tuple[Any, Any]:
    """Return the (rows, labels) float32 logits of a bundle, and the tokens.

    Args:
        scorer: The bundle.
        rows: Table with text, and text_pair for text pairs.
        say: Prints a line for the user.
    """
    say(f"scoring {counted(rows.num_rows, 'row')} on {scorer.device}")
    tokens = scorer.tokenise(*_texts(rows))
    return scorer.logits(tokens), tokens


def _texts(rows: Any) -> tuple[Any, Any]:
    return rows["text"], rows["text_pair"] if "text_pair" in rows.column_names else None


def _rewrite(
    found: LabelledBundle,
    job: TrainJob,
    refitted: Evaluated,
    table: str,
    place: str,
    records: list[dict[str, Any]],
    say: Say,
) -> None:
    """Write the bundle with its new decision, `clftask.json` last."""
    with quiet_loading():
        model, tokenizer = bundle.open_model(found.folder, found.meta)
    decision = refitted.decision
    if not found.meta.is_linear:  # else clftask alone applies the calibration
        calibration = _recalibrated(output_layer(model), found.meta.decision, decision)
        decision = decision.model_copy(update={"calibration": calibration})
    decided_on = {"table": filesystems.absolute(table), "rows": len(found.rows.logits)}
    data = found.meta.data | {"decided_on": decided_on}
    changed = {"decision": decision, "job": job.dump(), "data": data}
    changed |= {"metrics": refitted.metrics, "warnings": tuple(refitted.warnings)}
    meta = found.meta.model_copy(update=changed)
    outcome = _of_training(found.folder) | refitted.content
    with temporary_folder() as folder:
        report = page_of(meta, refitted, outcome, records, say)
        training_rows.add_decided(Path(found.folder), Path(folder), found.texts)
        bundle.write(Path(folder), model, tokenizer, meta, outcome, report)
        bundle.publish(Path(folder), place)


def _records(path: str) -> list[dict[str, Any]]:
    """Return the training log of a bundle that is still in its run folder, else an empty list."""
    run = filesystems.absolute(path).rpartition("/")[0]
    return run_dir.records(run) if storage.exists(storage.join(run, run_dir.JOB)) else []


def _of_training(folder: str) -> dict[str, Any]:
    """Return `metrics.json`: the training figures remain valid."""
    file = Path(folder, "metrics.json")
    return storage.read_json(str(file), bundle.AGAIN) if file.is_file() else {}


def _recalibrated(layer: Any, before: Decision, after: Decision) -> Calibration:
    """Replace the calibration folded into the last layer, unless both are equal."""
    old, new = before.calibration, after.calibration
    if new.is_close(old):
        return old
    if old.is_folded:
        old.unfolded(layer)
    return new.folded(layer)
