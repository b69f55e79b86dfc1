"""Which rows a random sample of the corpus may contain."""

from __future__ import annotations

import numpy as np

from clftask.scoring.manifest import Piece, Shard
from clftask.scoring.sample import _even_places


def test_all_rows_have_the_same_chance_those_at_the_ends_of_files_too() -> None:
    """Of 4,000 files of 30 rows, 20 in a row are drawn each; after the last comes the first."""
    pieces = tuple(Piece(file=i, start=0, num_rows=30) for i in range(4_000))
    drawn = _even_places([Shard(index=0, pieces=pieces)], 4_000, 20)
    counts = np.zeros(30)
    for piece in drawn:
        counts[piece.start : piece.start + piece.num_rows] += 1
    assert counts.sum() == 4_000 * 20
    assert np.abs(counts / 4_000 - 2 / 3).max() < 0.04  # 5 standard errors


def test_a_small_corpus_is_drawn_whole() -> None:
    pieces = (Piece(file=0, start=5, num_rows=7), Piece(file=1, start=0, num_rows=2))
    drawn = _even_places([Shard(index=0, pieces=pieces)], 2, 5)
    assert [(p.file, p.start, p.num_rows) for p in drawn] == [(0, 5, 4), (0, 9, 3), (1, 0, 2)]
