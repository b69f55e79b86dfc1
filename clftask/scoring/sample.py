"""Random rows of the input of a scoring job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clftask.components.text import TextRecipe
from clftask.scoring.input import read_shards
from clftask.scoring.manifest import Piece, ScorePlan, Shard

NUM_SPANS, SPAN_ROWS = 4_096, 256  # a million rows are read; few of a span are drawn


def places(shards: Sequence[Shard], count: int, num_rows: int) -> tuple[Piece, ...]:
    """Draw at most `num_rows` consecutive rows at up to `count` places across all files."""
    rows, random = _Rows(shards), np.random.default_rng(0)
    found: list[Piece] = []
    for low, high in rows.parts(count):
        first = int(random.integers(low, max(low, high - num_rows) + 1))
        found += rows.between(first, min(first + num_rows, high))
    return tuple(found)


def _even_places(shards: Sequence[Shard], count: int, num_rows: int) -> list[Piece]:
    """Draw as `places` does, but all rows have the same chance: spans go on at a part's start."""
    rows, random = _Rows(shards), np.random.default_rng(0)
    found: list[Piece] = []
    for low, high in rows.parts(count):
        first = int(random.integers(low, high)) if high - low > num_rows else low
        last = first + min(num_rows, high - low)
        found += rows.between(low, low + max(0, last - high))
        found += rows.between(first, min(last, high))
    return found


class _Rows:
    """The rows of shards, numbered across all files."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        pieces = (piece for shard in shards for piece in shard.pieces)
        self.pieces = sorted(pieces, key=lambda piece: (piece.file, piece.start))
        self.starts = np.cumsum([0, *(piece.num_rows for piece in self.pieces)])

    def parts(self, count: int) -> Iterable[tuple[int, int]]:
        """Return the first and the last number of parts of the same size."""
        return pairwise(np.linspace(0, self.starts[-1], count + 1).astype(int).tolist())

    def between(self, first: int, last: int) -> Iterator[Piece]:
        """Yield the pieces of rows."""
        begin = np.searchsorted(self.starts, first, "right") - 1
        end = np.searchsorted(self.starts, last)
        for piece, start in zip(self.pieces[begin:end], self.starts[begin:end], strict=True):
            skipped = max(0, int(first - start))
            rows = min(int(last - start), piece.num_rows) - skipped
            if rows > 0:
                yield Piece(file=piece.file, start=piece.start + skipped, num_rows=rows)


def random_texts(
    plan: ScorePlan, recipe: TextRecipe, num_rows: int
) -> tuple[pa.ChunkedArray, pa.ChunkedArray | None]:
    """Draw usable rows at random, in random order: all have the same chance.

    A larger corpus than is read is drawn from in two stages: first the places, then their rows.
    There are so many places that rows of one place hardly meet in the sample.

    Returns:
        (rows,) texts, and second texts of a pair task; fewer than `num_rows` in small corpora.
    """
    random, best = np.random.default_rng(1), None
    spans = _even_places(plan.shards, NUM_SPANS, SPAN_ROWS)
    shards = [Shard(index=i, pieces=(piece,)) for i, piece in enumerate(spans)]
    for rows in read_shards(plan, shards, recipe):
        good = pc.indices_nonzero(rows.reasons.is_null())
        columns = {"text": rows.text} | ({} if rows.text_pair is None else {"pair": rows.text_pair})
        own = (
            pa.table(columns).take(good).append_column("place", pa.array(random.random(len(good))))
        )
        both = own if best is None else pa.concat_tables([best, own])
        best = both.sort_by("place").slice(0, num_rows)  # the lowest of all that were read
    assert best is not None  # a plan has rows
    return best["text"], best["pair"] if recipe.text_pair else None
