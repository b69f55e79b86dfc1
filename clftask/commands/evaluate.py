"""Evaluate a bundle on a labelled table, or refit its decision there. Without Ray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clftask.components.decision.calibration import Calibration
from clftask.components.decision.decision import Decision
from clftask.components.labels import LabelSpace, multi_hot
from clftask.components.truncation import num_special
from clftask.config.train import TrainJob
from clftask.data import training_rows
from clftask.data.prepare import beginnings, read_labelled
from clftask.data.summary import DataReport
from clftask.data.tokenization import full_lengths
from clftask.errors import ConfigError, Problem
from clftask.evaluation.baseline import majority_label, weaknesses
from clftask.evaluation.evaluate import Evaluated, Labelled, add_metric, decide, labelled, measured
from clftask.io import filesystems, listing, storage
from clftask.io.tempdirs import temporary_folder
from clftask.messages import counted
from clftask.models import bundle
from clftask.models.bundle_meta import BundleMeta
from clftask.models.loading import output_layer, quiet_loading
from clftask.models.predictor import Scorer, default_device
from clftask.report.bundle_page import page_of
from clftask.training import run_dir

FEW_ROWS = 100
Say = Callable[[str], None]


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


def evaluate_bundle(path: str, table: str, say: Say, split: str | None = None) -> dict[str, Any]:
    """Evaluate a bundle, with its own decision, on a labelled table.

    Args:
        path: The bundle.
        table: Rows with the text and label columns of the training job.
        say: Prints a line for the user.
        split: The split of a dataset that has several; None: test, or else the first one.

    Returns:
        bundle, table, split (that was read, of a dataset that has several), task, metric (the
        training job's), rows, trained_on (numbers of rows that the bundle was trained on, by
        split), warnings, metrics (None where one is undefined), intervals, per_label, by_length,
        and confusion_matrix for multiclass.

    Raises:
        DataError: There is no bundle, or the table does not match it.
    """
    with temporary_folder() as scratch:
        found = _labelled_bundle(path, table, scratch, say, split)
    decision, rows, space = found.meta.decision, found.rows, found.meta.space
    again = {"calibration": decision.calibration.model_copy(update={"is_folded": False})}
    decision = decision.model_copy(update=again)  # the logits are uncalibrated
    outcome = decision.apply(rows.logits, found.meta.task)
    num_whole = found.meta.truncation.num_whole(found.meta.max_length, found.num_special)
    majority = majority_label(found.meta.data, space.names, rows.targets)
    figures = measured(rows, outcome, decision, space, num_whole, majority)
    training = found.meta.job["training"]
    add_metric(figures["metrics"], training["metric"], outcome, rows.targets, found.meta.task)
    of_table = figures["metrics"], outcome, space, majority, table
    warnings = _printed(weaknesses(*of_table, training["optimizer"]), say)
    return {"bundle": path, **_of_table(table, found, warnings), **figures}


def decide_bundle(
    path: str,
    table: str,
    overrides: list[str],
    output: str | None,
    say: Say,
    split: str | None = None,
) -> dict[str, Any]:
    """Fit a bundle's decision on a labelled table, without training.

    Args:
        path: The bundle.
        table: Rows with the text and label columns of the training job.
        overrides: Fields of the training job's decision: `decision.threshold=per_label`.
        output: The path of the new bundle; None replaces the old one.
        say: Prints a line for the user.
        split: The split of a dataset that has several; None: test, or else the first one.

    Returns:
        The same as `evaluate_bundle`, cross-fitted: the decision is fitted on the other folds.

    Raises:
        ConfigError: An override is not a field of the decision.
        DataError: There is no bundle, or the table does not match it.
    """
    meta = bundle.read_meta(path)
    job = _with_decision(meta, overrides)
    place = _place(path, output)
    with temporary_folder() as scratch:
        found = _labelled_bundle(path, table, scratch, say, split)
        if len(found.rows.logits) < FEW_ROWS:
            rows = counted(len(found.rows.logits), "row")
            say(f"warning: the decision is fitted on only {rows} and may overfit")
        splits, data = {"validation": found.rows}, found.meta.data
        refitted = decide(job, found.meta.space, splits, data, found.num_special)
        warnings = _printed(refitted.warnings, say)
        _rewrite(found, job, refitted, table, place, _records(path), say)
    figures = {name: by_split["validation"] for name, by_split in refitted.figures.items()}
    return {"bundle": place, **_of_table(table, found, warnings), **figures}


def _of_table(table: str, found: LabelledBundle, warnings: list[str]) -> dict[str, Any]:
    return {
        "table": table,
        "split": found.split,
        "task": found.meta.task,
        "metric": found.meta.job["training"]["metric"],
        "rows": len(found.rows.logits),
        "trained_on": found.known,
        "warnings": [*found.warnings, *warnings],
    }


def _printed(warnings: list[str], say: Say) -> list[str]:
    """Print warnings, and return them as they are printed."""
    lines = [f"warning: {warning}" for warning in warnings]
    for line in lines:
        say(line)
    return lines


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
            raise ConfigError(Problem("--output", output, allowed))
    storage.check_writable(place, "output")
    return place


def _with_decision(meta: BundleMeta, overrides: list[str]) -> TrainJob:
    """Return the bundle's training job with another decision."""
    foreign = [o for o in overrides if not o.startswith("decision.")]
    if foreign:
        allowed = "must be a field of decision: nothing else can change without training"
        raise ConfigError(*(Problem(o, None, allowed) for o in foreign))
    return TrainJob.load(meta.job, overrides)


def score_rows(path: str, rows: Any, say: Say) -> tuple[BundleMeta, Any]:
    """Return a bundle's description and the (rows, labels) float32 probabilities of rows.

    Args:
        path: The bundle.
        rows: Table with text, and text_pair for text pairs.
        say: Prints a line for the user.
    """
    with temporary_folder() as scratch:
        folder, meta = bundle.fetch(path, scratch)
        known = training_rows.count_known(Path(folder), rows)
        if known:
            say(f"{path}: {training_rows.warning(known, rows.num_rows)}")
        logits = _logits(folder, meta, rows, say)
    return meta, meta.decision.probabilities(logits, meta.task)


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
    scorer, tokens = _tokenised(folder, meta, rows, say)
    raw = meta.decision.calibration.raw(scorer.logits(tokens))
    targets = multi_hot(rows["labels"].combine_chunks(), len(meta.label_names))
    num_tokens = full_lengths(*_texts(rows), tokens, scorer.tokenizer)
    shown = rows.set_column(rows.column_names.index("text"), "text", beginnings(rows))
    found = labelled(shown.append_column("num_tokens", num_tokens), raw, targets)
    special = sum(num_special(scorer.tokenizer))
    return LabelledBundle(meta, folder, found, rows, report.split_read, known, warnings, special)


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


def _logits(folder: str, meta: BundleMeta, rows: Any, say: Say) -> Any:
    scorer, tokens = _tokenised(folder, meta, rows, say)
    return scorer.logits(tokens)


def _tokenised(folder: str, meta: BundleMeta, rows: Any, say: Say) -> tuple[Scorer, Any]:
    with quiet_loading():
        model, tokenizer = bundle.open_model(folder, meta)
    # Always fp32: metrics must not depend on which precision is fastest on a machine.
    scorer = Scorer(model, tokenizer, meta, default_device())
    say(f"scoring {counted(rows.num_rows, 'row')} on {scorer.device}")
    return scorer, scorer.tokenise(*_texts(rows))


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
    calibration = _recalibrated(output_layer(model), found.meta.decision, refitted.decision)
    decision = refitted.decision.model_copy(update={"calibration": calibration})
    decided_on = {"table": filesystems.absolute(table), "rows": len(found.rows.logits)}
    data = found.meta.data | {"decided_on": decided_on}
    changed = {"decision": decision, "job": job.dump(), "data": data}
    changed |= {"metrics": refitted.figures["metrics"], "warnings": tuple(refitted.warnings)}
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
