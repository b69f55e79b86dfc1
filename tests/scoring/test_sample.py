"""Which rows a random sample of the corpus may contain."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from score_world import World

from clftask.components.text import TextRecipe
from clftask.config.score import ScoreJob
from clftask.scoring import plan as planning
from clftask.scoring import sample
from clftask.scoring.manifest import Piece, ScorePlan, Shard
from clftask.scoring.sample import _even_places, random_texts


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


@pytest.mark.parametrize(
    ("where", "rows_of_place", "num_drawn"), [(None, [1], 500), ("number < 400", [1, 5], 400)]
)
def test_no_more_rows_are_read_than_the_sample_takes(
    tmp_path, tiny_bundle, monkeypatch, where, rows_of_place, num_drawn
):
    """4,096 of 20,000 rows, or, if few of them match, all."""
    read: list[int] = []

    def noted(plan: ScorePlan, recipe: TextRecipe, num_rows: int) -> pa.Table:
        read.append(num_rows)
        return usable(plan, recipe, num_rows)

    usable = sample._usable
    monkeypatch.setattr(sample, "_usable", noted)
    world = World(tmp_path, tiny_bundle)
    for first in (0, 10_000):
        rows = list(range(first, first + 10_000))
        world.write(f"{first}.parquet", 10_000, text=[f"text {i}" for i in rows], number=rows)
    given = {"path": str(world.input), "id": "id", "where": where}
    job = ScoreJob.load(world.document | {"input": given, "shard_rows": 3_000})
    plan, recipe = planning.plan(job, world.meta).plan, job.input.recipe(world.meta.text)
    found = [int(text.split()[1]) for text in random_texts(plan, recipe, 500)[0].to_pylist()]
    assert (read, len(set(found))) == (rows_of_place, num_drawn)
    most = 400 if where else 20_000
    in_tenths = np.histogram(found, bins=10, range=(0, most))[0]
    assert in_tenths.min() >= 25  # of 50 or 40
