"""Random rows of the input of a scoring job."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby, pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clftask.components.text import TextRecipe
from clftask.io.parallel import map_in_threads
from clftask.scoring.input import decode_schema, encode_schema, read_shards
from clftask.scoring.manifest import Piece, ScorePlan, Shard

NUM_SPANS, SPAN_ROWS = 4_096, 256  # at most a million rows are read
SPARE = 4  # rows read for each that is drawn: few of a span are


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

    A large corpus is drawn from in two stages: first the places, then their rows. There are so
    many places that rows of one place hardly meet in the sample, and no more rows are read at
    each than it takes: more where many are unusable, or left out by `input.where`.

    Returns:
        (rows,) texts, and second texts of a pair task; fewer than `num_rows` in small corpora.
    """
    plan = _texts_only(plan, recipe)
    all_rows = min(SPAN_ROWS, math.ceil(plan.num_rows / NUM_SPANS))
    rows = min(all_rows, math.ceil(SPARE * num_rows / NUM_SPANS))
    found = _usable(plan, recipe, rows)
    while found.num_rows < num_rows and rows < all_rows:
        needed = SPARE * rows * num_rows / max(found.num_rows, 1)
        rows = min(all_rows, math.ceil(needed))
        found = _usable(plan, recipe, rows)
    order = np.random.default_rng(1).permutation(found.num_rows)[:num_rows]
    drawn = found.take(pa.array(order))
    return drawn["text"], drawn["pair"] if recipe.text_pair else None


def _texts_only(plan: ScorePlan, recipe: TextRecipe) -> ScorePlan:
    """Return a plan to read texts and the columns of `input.where`, but no id or kept columns."""
    schema, names = decode_schema(plan.columns), list(recipe.columns)
    if plan.where is not None:
        from clftask.components.row_filter import condition

        names += condition.columns_of(plan.where, schema.names)
    fields = [field for field in schema if field.name in names]
    return plan.model_copy(update={"columns": encode_schema(pa.schema(fields))})


def _usable(plan: ScorePlan, recipe: TextRecipe, num_rows: int) -> pa.Table:
    """Return text, and pair, of the usable ones of so many rows at each place."""
    spans = groupby(_even_places(plan.shards, NUM_SPANS, num_rows), lambda piece: piece.file)
    shards = [Shard(index=file, pieces=tuple(pieces)) for file, pieces in spans]
    return pa.concat_tables(map_in_threads(partial(_read, plan, recipe), shards))


def _read(plan: ScorePlan, recipe: TextRecipe, shard: Shard) -> pa.Table:
    (rows,) = read_shards(plan, [shard], recipe, SPAN_ROWS)
    pair = {} if rows.text_pair is None else {"pair": rows.text_pair}
    good = pc.indices_nonzero(rows.reasons.is_null())
    return pa.table({"text": rows.text, **pair}).take(good)
