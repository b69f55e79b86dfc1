"""Describe the data of a job before it runs, without Ray: `inspect JOB --data`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clftask.config.jobs import load_any_job
from clftask.config.score import ScoreJob
from clftask.config.sections import ModelSpec
from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.data.duplicates import Duplicates, find_duplicates
from clftask.data.prepare import Prepared, prepare, tokenise
from clftask.data.readers.base import Source
from clftask.data.readers.cells import BAD
from clftask.data.summary import FEW_TRAIN_ROWS, describe_left_out, length_figures, token_figures
from clftask.data.tokenization import full_lengths
from clftask.data.tokenization import tokenise as tokenise_texts
from clftask.errors import ClftaskError, DataError, Problem
from clftask.io import filesystems, storage
from clftask.io.tempdirs import temporary_folder
from clftask.messages import counted
from clftask.models import bundle
from clftask.models.base_checks import check_base
from clftask.models.bundle_meta import BundleMeta
from clftask.models.tokenizers import load_tokenizer
from clftask.scoring.input import matching_rows, source_of, survey

SAMPLE_ROWS, SAMPLE_FILES = 1000, 20
Figures = dict[str, float]


@dataclass(frozen=True)
class TrainData:
    """The data of a training job or a search, as `prepare` makes it.

    Attributes:
        kind: `data of a train job` or `data of a tune job`.
        task: multiclass or multilabel.
        rows: Number of rows by split.
        groups: Number of groups by split; empty if the split has no groups.
        labels: For each label its number of rows by split.
        labels_per_row: Their mean number on a train row.
        rare_labels: Labels on fewer than `FEW_TRAIN_ROWS` train rows, with their number.
        labels_left_out: Labels of train that the job leaves out, with their number of rows.
        labels_not_in: For each held-out split the labels that do not occur there.
        characters: median, p95 and longest of the texts by split.
        tokens: The same in tokens; truncated: share of rows; lost: share of tokens. Empty if the
            tokenizer cannot be opened.
        max_length: The tokens that are read; None for a linear model, which reads whole texts.
        duplicates: Equal texts.
        warnings: What the data summary warns of.
        notes: What it tells of soft labels and row weights.
    """

    kind: str
    task: str
    rows: dict[str, int]
    groups: dict[str, int]
    labels: dict[str, dict[str, int]]
    labels_per_row: float
    rare_labels: dict[str, int]
    labels_left_out: dict[str, int]
    labels_not_in: dict[str, list[str]]
    characters: dict[str, Figures]
    tokens: dict[str, Figures]
    max_length: int | None
    duplicates: Duplicates
    warnings: list[str]
    notes: list[str]


@dataclass(frozen=True)
class CorpusData:
    """The input of a scoring job: all files, and a sample of its texts.

    Attributes:
        kind: `data of a score job`.
        files: Number of files.
        rows: Number of rows.
        columns: Type of each column of the first file.
        text: The columns that are joined to a text.
        sampled: Number of rows in the sample: the first ones of up to `SAMPLE_FILES` files,
            without those that `input.where` leaves out.
        filtered: Number of rows that it leaves out of the sample; None without a condition.
        bad: Number of sampled rows that would be quarantined, by reason.
        characters: median, p95 and longest of the sampled texts.
        tokens: The same in tokens; truncated: share of rows; lost: share of tokens.
        max_length: The tokens that the bundle reads; None for a linear model.
        warnings: Skipped files, and equal texts or ids in the sample.
    """

    kind: str
    files: int
    rows: int
    columns: dict[str, str]
    text: list[str]
    sampled: int
    filtered: int | None
    bad: dict[str, int]
    characters: Figures
    tokens: Figures
    max_length: int | None
    warnings: list[str] = field(default_factory=list)


def inspect_data(path: str, overrides: Iterable[str] = ()) -> TrainData | CorpusData:
    """Describe the data of a job file.

    Args:
        path: The job file of train, tune or score.
        overrides: `field.path=value`, as of the job's command.

    Raises:
        ConfigError, DataError: The path is not a job file, or the job's command would refuse it.
    """
    place = filesystems.absolute(path)
    if not place.endswith((".yaml", ".yml")):
        inner = [storage.join(place, name) for name in ("search.yaml", "job.yaml")]
        job_file = next((name for name in inner if storage.exists(name)), None)
        remedy = f"Use {job_file}." if job_file else "Without --data, a table is described."
        allowed = "must be the YAML file of a train, tune or score job for --data"
        raise DataError(Problem("path", path, allowed, remedy))
    job = load_any_job(place, overrides)
    if isinstance(job, TuneJob):
        return _of_search(job)
    return _of_score(job) if isinstance(job, ScoreJob) else _of_train(job, "data of a train job")


# ------------------------------------------------------------------ train and tune


def _of_search(search: TuneJob) -> TrainData:
    try:
        return _of_train(search.train, "data of a tune job")
    except ClftaskError as error:
        raise type(error)(*map(search.renamed, error.problems)) from None


def _of_train(job: TrainJob, kind: str) -> TrainData:
    prepared = prepare(job)
    report = prepared.report
    by_split = report.label_counts
    labels = {n: {s: by_split[s][n] for s in by_split} for n in prepared.space.names}
    held_out = [split for split in by_split if split != "train"]
    warnings = replace(report, duplicates={}).warnings()  # `duplicates` has them in detail
    warnings += _repeated({"id": prepared.rows["id"].drop_null()})
    warnings += _tokenised(job, prepared)
    return TrainData(
        kind=kind,
        task=job.task,
        rows=report.rows,
        groups={
            split: len(pc.unique(table["group"]))
            for split, table in prepared.tables.items()
            if "group" in table.column_names
        },
        labels=labels,
        labels_per_row=report.labels_per_row,
        rare_labels={n: c["train"] for n, c in labels.items() if c["train"] < FEW_TRAIN_ROWS},
        labels_left_out=report.unknown_labels.get("train", {}),
        labels_not_in={s: [n for n, c in labels.items() if not c[s]] for s in held_out},
        characters={
            split: length_figures(pc.utf8_length(table["text"]).to_numpy())
            for split, table in prepared.tables.items()
        },
        tokens=report.tokens,
        max_length=job.model.max_length if isinstance(job.model, ModelSpec) else None,
        duplicates=find_duplicates(prepared.tables, prepared.space),
        warnings=warnings,
        notes=report.notes(),
    )


def _tokenised(job: TrainJob, prepared: Prepared) -> list[str]:
    """Add token lengths to the report; return a warning if the base cannot be used."""
    if not isinstance(job.model, ModelSpec):
        return []
    try:
        has_pairs = job.data.text_pair is not None
        tokenise(prepared, check_base(job.model, has_pairs, job.training), job.model)
    except ClftaskError as error:
        return [f"warning: no token lengths: {error.problems[0]}"]
    return []


# ------------------------------------------------------------------ score


def _of_score(job: ScoreJob) -> CorpusData:
    path = [*job.bundles.values()][-1]
    meta = bundle.read_meta(path)
    recipe = job.input.recipe(meta.text)
    sources = source_of(job)
    files = [file for source in sources for file in source.files]
    corpus = survey(job, recipe, sources, files)
    read = _sample(sources, corpus.schema, recipe.columns)
    sample = matching_rows(read, job.input.where)
    text, pair = recipe.apply(sample)
    has_text = text.is_valid() if pair is None else pc.and_(text.is_valid(), pair.is_valid())
    usable = pc.and_(sample[BAD].is_null(), has_text)
    reasons = pc.fill_null(sample.filter(pc.invert(usable))[BAD], "the text is null or blank")
    text, pair = text.filter(usable), None if pair is None else pair.filter(usable)
    warnings = [
        f"warning: {describe_left_out(source.left_out)}" for source in sources if source.left_out
    ]
    ids = {"sampled id": sample[job.input.id].drop_null()} if job.input.id else {}
    warnings += _repeated({"sampled text": text, **ids})
    return CorpusData(
        kind="data of a score job",
        files=len(files),
        rows=sum(file.num_rows for file in corpus.files),
        columns=_columns(sources[0]),
        text=recipe.columns,
        sampled=sample.num_rows,
        filtered=None if job.input.where is None else read.num_rows - sample.num_rows,
        bad={str(c["values"]): c["counts"] for c in pc.value_counts(reasons).to_pylist()},
        characters=length_figures(pc.utf8_length(text).to_numpy()) if len(text) else {},
        tokens={} if meta.is_linear else _tokens(path, text, pair, meta),
        max_length=None if meta.is_linear else meta.max_length,
        warnings=warnings,
    )


def _columns(source: Source) -> dict[str, str]:
    schema = source.survey(source.files[0], source.names()).schema
    return {column.name: str(column.type) for column in schema}


def _sample(sources: list[Source], schema: pa.Schema, texts: list[str]) -> pa.Table:
    """Return the first rows of files spread over the input."""
    files = [(source, file) for source in sources for file in source.files]
    chosen = np.unique(np.linspace(0, len(files) - 1, min(len(files), SAMPLE_FILES)).astype(int))
    num_rows = -(-SAMPLE_ROWS // len(chosen))
    batches: list[pa.RecordBatch] = []
    for source, file in (files[i] for i in chosen):
        batches += itertools.islice(source.batches(file, schema, 0, num_rows, texts), 1)
    return pa.Table.from_batches(batches, schema.append(pa.field(BAD, pa.string())))


def _repeated(columns: dict[str, Any]) -> list[str]:
    """Return a warning for each column, by the name of its values, in which values repeat."""
    found = []
    for name, values in columns.items():
        if num := len(values) - len(pc.unique(values)):
            verb = "repeats" if num == 1 else "repeat"
            found.append(f"warning: {counted(num, name)} {verb} an earlier one")
    return found


def _tokens(path: str, text: Any, pair: Any, meta: BundleMeta) -> Figures:
    if not len(text):
        return {}
    with temporary_folder() as scratch:
        folder, _ = bundle.fetch(path, scratch)
        tokenizer = load_tokenizer(folder)
    tokens = tokenise_texts(text, pair, tokenizer, meta.max_length, meta.truncation)
    return token_figures(full_lengths(text, pair, tokens, tokenizer).to_numpy(), tokens)
