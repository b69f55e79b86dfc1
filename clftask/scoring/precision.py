"""The precision of a score table: a faster one if a sample of the rows gets the same labels."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clftask.array_types import Bools
from clftask.config.score import ScoreJob
from clftask.data.readers.registry import open_file
from clftask.errors import ConfigError, ModelError, Problem
from clftask.messages import counted
from clftask.models.cascade import LocalBundle, Opener
from clftask.models.prediction import Predictor
from clftask.models.predictor import precision_for
from clftask.scoring.input import read_shards
from clftask.scoring.manifest import Piece, Precision, ScorePlan, Shard

MIN_AGREEMENT = 0.99
NUM_ROWS, NUM_PLACES, CHUNK_ROWS = 256, 32, 32
MAX_SECONDS = 20.0  # of fp32; then fewer rows are compared
READ_PER_ROW = 8  # rows to read for each row that `input.where` may keep


def agree(
    job: ScoreJob, plan: ScorePlan, opener: Opener, bundles: Sequence[LocalBundle]
) -> Precision:
    """Choose the precision of a new table on the device of a worker.

    `auto` takes what is faster, if the model works in it and decides at least 99 % of a sample
    as in fp32; else fp32. An explicit precision is only tried and compared. Both bundles of a
    cascade have the same; the lower agreement counts. A linear one is always in fp32.

    Args:
        job: The job.
        plan: Its plan.
        opener: Opens the bundles on the device of the worker.
        bundles: Those of the job.

    Raises:
        ConfigError: The model does not work in the requested precision.
    """
    asked, wanted = job.precision, precision_for(job.precision, opener.device)
    if wanted == "fp32":
        return Precision(asked=asked, used="fp32")
    models = [one for one in bundles if not one.meta.is_linear]
    found = [_tried(one, wanted, job, plan, opener) for one in models]
    return min(found, key=lambda one: (one.used != "fp32", one.agreement or 0.0))


def _tried(
    bundle: LocalBundle, wanted: str, job: ScoreJob, plan: ScorePlan, opener: Opener
) -> Precision:
    asked = job.precision
    exact = opener.open(bundle, "fp32")
    sample = _sample(exact, job, plan)
    wanted_labels = _decided_within(MAX_SECONDS, exact, sample)
    del exact
    other = opener.open(bundle, wanted)
    try:
        found = _decided(other, sample.slice(0, len(wanted_labels)))
    except ModelError as error:
        reason = f"{wanted} is not used: {error.problems[0].allowed}"
        if asked == "auto":
            return Precision(asked=asked, used="fp32", reason=reason)
        remedy = "Use precision: fp32."
        raise ConfigError(Problem("precision", asked, error.problems[0].allowed, remedy)) from None
    return _compared(asked, wanted, wanted_labels, found)


def _compared(asked: str, wanted: str, exact: Bools, other: Bools) -> Precision:
    rows = len(exact)
    if not rows:
        used = "fp32" if asked == "auto" else wanted
        return Precision(asked=asked, used=used)
    equal = int((exact == other).all(1).sum())
    known = {"asked": asked, "agreement": equal / rows, "rows": rows}
    if asked == "auto" and equal / rows < MIN_AGREEMENT:
        reason = f"{wanted} changes the labels of {rows - equal} of {counted(rows, 'sampled row')}"
        return Precision(used="fp32", reason=reason, **known)
    return Precision(used=wanted, **known)


def _decided(scorer: Predictor, tokens: pa.Table) -> Bools:
    decision = scorer.meta.decision
    return decision.decide(scorer.probabilities(tokens), scorer.meta.task)


def _decided_within(most_s: float, scorer: Predictor, tokens: pa.Table) -> Bools:
    """Return the decisions of the first rows, as many as take about `most_s` seconds.

    A few rows show the pace. The others are computed together: then batches have similar lengths.
    """
    began, size = time.perf_counter(), CHUNK_ROWS
    found = [_decided(scorer, tokens.slice(0, size))]
    while True:
        done, spent = sum(map(len, found)), time.perf_counter() - began
        if done >= tokens.num_rows or spent > most_s:
            return np.concatenate(found)
        size = max(CHUNK_ROWS, int(done * (most_s / spent - 1)))
        found.append(_decided(scorer, tokens.slice(done, size)))


def _sample(scorer: Predictor, job: ScoreJob, plan: ScorePlan) -> pa.Table:
    """Return the tokens of usable rows from all over the corpus, in random order."""
    shard = Shard(index=0, pieces=tuple(sample_pieces(plan)))
    rows = next(read_shards(plan, [shard], job.input.recipe(scorer.meta.text)))
    good = pc.indices_nonzero(rows.reasons.is_null()).to_numpy()
    chosen = pa.array(good[np.random.default_rng(0).permutation(len(good))[:NUM_ROWS]])
    pair = None if rows.text_pair is None else rows.text_pair.take(chosen)
    return scorer.tokenise(rows.text.take(chosen), pair)


def sample_pieces(plan: ScorePlan) -> Iterator[Piece]:
    """Yield the first rows of evenly spaced shards; of files without seeking, the first rows."""
    places = np.linspace(0, len(plan.shards) - 1, min(NUM_PLACES, len(plan.shards)))
    pieces = [plan.shards[int(place)].pieces[0] for place in places]
    seeks = {p.file: open_file(plan.files[p.file].path).seeks for p in pieces}
    starts: dict[Any, Piece] = {}
    for piece in pieces:
        start = piece.start if seeks[piece.file] else 0
        starts.setdefault((piece.file, start), piece)
    share = math.ceil(NUM_ROWS / len(starts)) * (1 if plan.where is None else READ_PER_ROW)
    for (file, start), piece in starts.items():
        most = piece.num_rows if seeks[file] else plan.files[file].num_rows
        yield Piece(file=file, start=start, num_rows=min(share, most))
