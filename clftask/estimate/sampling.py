"""Rows from places at random: the first rows of the first file stand for no corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from clftask.config.score import ScoreJob
from clftask.data.readers.base import FILE, ROW
from clftask.errors import DataError, Problem
from clftask.messages import counted
from clftask.models.bundle_meta import BundleMeta
from clftask.scoring.input import ShardRows, read_shards
from clftask.scoring.manifest import Piece, Shard
from clftask.scoring.plan import Planned

NUM_PLACES = 24
ROWS_OF_PLACE = {"cpu": 1_000, "cuda": 5_000}  # at most: a GPU takes a thousand rows at once
SEED = 0


@dataclass(frozen=True)
class Sample:
    """Rows of a corpus, a chunk from each of some places.

    Attributes:
        chunks: By place, in the order of the files.
        num_bad: Rows that cannot be scored.
        first_bad: Of the first of them: file, row and reason.
    """

    chunks: list[ShardRows]
    num_bad: int
    first_bad: str | None

    @property
    def num_rows(self) -> int:
        """Rows of all places."""
        return sum(chunk.table.num_rows for chunk in self.chunks)


def draw(job: ScoreJob, meta: BundleMeta, planned: Planned, device: str) -> Sample:
    """Read rows at random places of what is still to be scored.

    Raises:
        DataError: Not one of them can be scored, or a file cannot be read.
    """
    size = min(ROWS_OF_PLACE[device], job.shard_rows)
    shards = places(planned.missing, NUM_PLACES, size, SEED)
    chunks = list(read_shards(planned.plan, shards, job.input.recipe(meta.text)))
    num_bad = sum(len(chunk.reasons) - chunk.reasons.null_count for chunk in chunks)
    sample = Sample(chunks, num_bad, next(filter(None, map(_first_bad, chunks)), None))
    if num_bad == sample.num_rows:
        remedy = "Check input.text."
        allowed = f"not one of {counted(num_bad, 'sampled row')} can be scored: {sample.first_bad}"
        raise DataError(Problem("input.path", job.input.path, allowed, remedy))
    return sample


def _first_bad(rows: ShardRows) -> str | None:
    bad = pc.indices_nonzero(rows.reasons.is_valid())
    if not len(bad):
        return None
    row = rows.table.select([FILE, ROW]).take(bad[:1]).to_pylist()[0]
    return f"{row[FILE]}, row {row[ROW]}: {rows.reasons[bad[0].as_py()].as_py()}"


def beginning(rows: ShardRows, count: int) -> ShardRows:
    """Return the first rows of a chunk."""
    pair = None if rows.text_pair is None else rows.text_pair.slice(0, count)
    return ShardRows(
        rows.shard,
        rows.table.slice(0, count),
        rows.text.slice(0, count),
        pair,
        rows.reasons.slice(0, count),
    )


def places(shards: Sequence[Shard], count: int, num_rows: int, seed: int) -> list[Shard]:
    """Draw consecutive rows at places that are spread over all files and all of each file.

    The rows are cut into equal stretches, and of each a part is drawn.

    Args:
        shards: What is to be sampled.
        count: How many places, at most.
        num_rows: Of each place, at most.
        seed: Of the draw.

    Returns:
        The places in the order of the files, as shards of their own.
    """
    pieces = [piece for shard in shards for piece in shard.pieces]
    pieces.sort(key=lambda piece: (piece.file, piece.start))
    starts = np.cumsum([0, *(piece.num_rows for piece in pieces)])
    total, random = int(starts[-1]), np.random.default_rng(seed)
    edges = [total * i // count for i in range(count + 1)]
    found = []
    for start, end in pairwise(edges):
        size = min(num_rows, end - start)
        if size:
            first = start + int(random.integers(end - start - size + 1))
            found.append(_rows(pieces, starts, first, size))
    return [Shard(index=i, pieces=tuple(rows)) for i, rows in enumerate(found)]


def _rows(
    pieces: Sequence[Piece], starts: npt.NDArray[np.int64], first: int, size: int
) -> list[Piece]:
    """Return where rows stand that go on from row `first` of all."""
    number = int(np.searchsorted(starts, first, side="right")) - 1
    found = []
    while size:
        piece, skipped = pieces[number], first - int(starts[number])
        taken = min(size, piece.num_rows - skipped)
        found.append(Piece(file=piece.file, start=piece.start + skipped, num_rows=taken))
        number, first, size = number + 1, first + taken, size - taken
    return found
