"""Random rows of the input of a scoring job."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clftask.components.text import TextRecipe
from clftask.scoring.input import read_shards
from clftask.scoring.manifest import Piece, ScorePlan, Shard

NUM_SPANS, SPAN_ROWS = 128, 8_192  # a million rows are read


def places(shards: Sequence[Shard], count: int, num_rows: int) -> tuple[Piece, ...]:
    """Draw at most `num_rows` consecutive rows at up to `count` places across all files."""
    pieces = sorted((p for s in shards for p in s.pieces), key=lambda p: (p.file, p.start))
    starts = np.cumsum([0, *(piece.num_rows for piece in pieces)])
    random, found = np.random.default_rng(0), []
    for low, high in pairwise(np.linspace(0, starts[-1], count + 1).astype(int)):
        first = random.integers(low, max(low, high - num_rows) + 1)
        last = min(first + num_rows, high)
        begin, end = np.searchsorted(starts, first, "right") - 1, np.searchsorted(starts, last)
        for piece, start in zip(pieces[begin:end], starts[begin:end], strict=True):
            skipped = max(0, int(first - start))
            rows = min(int(last - start), piece.num_rows) - skipped
            if rows > 0:
                found.append(Piece(file=piece.file, start=piece.start + skipped, num_rows=rows))
    return tuple(found)


def random_texts(
    plan: ScorePlan, recipe: TextRecipe, num_rows: int
) -> tuple[pa.ChunkedArray, pa.ChunkedArray | None]:
    """Draw usable rows at random, in random order: all have the same chance.

    A larger corpus than is read is drawn from in two stages: first the places, then their rows.

    Returns:
        (rows,) texts, and second texts of a pair task; fewer than `num_rows` in small corpora.
    """
    random, best = np.random.default_rng(1), None
    spans = places(plan.shards, NUM_SPANS, SPAN_ROWS)
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
