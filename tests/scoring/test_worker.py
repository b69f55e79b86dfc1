"""A worker that reads the next batch of shards while it computes the last one."""

from __future__ import annotations

from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from score_world import World

from clftask.config.score import ScoreJob
from clftask.io import storage
from clftask.scoring import plan as planning
from clftask.scoring import worker as workers
from clftask.scoring.input import read_shards
from clftask.scoring.worker import Done, ScoreWork, ShardScorer

WAIT_S = 60.0


@pytest.fixture
def world(tmp_path: Path, tiny_bundle: str) -> World:
    return World(tmp_path, tiny_bundle)


def planned(world: World) -> tuple[ScoreWork, list[Any]]:
    job = ScoreJob.load(world.document)
    found = planning.create(job, world.meta, planning.plan(job, world.meta))
    return ScoreWork(job, found.plan, world.meta), list(found.missing)


def test_a_second_call_reads_while_the_first_computes_and_computes_after_it(world, monkeypatch):
    """The first call computes its last shard only once the second call has read its first one."""
    world.write("a.parquet", 40)
    work, shards = planned(world)
    was_read, computed = Event(), []

    def read(plan, some, recipe):
        for rows in read_shards(plan, some, recipe):
            if rows.shard.index == 2:
                was_read.set()
            yield rows

    scorer = ShardScorer(work, world.scorer, read)
    answers = scorer._answers

    def waiting(ready):
        if ready.rows.shard.index == 1:
            second.start()
            assert was_read.wait(WAIT_S)
        computed.append(ready.rows.shard.index)
        return answers(ready)

    monkeypatch.setattr(scorer, "_answers", waiting)
    found: list[Any] = []
    second = Thread(target=lambda: found.extend(scorer.run(shards[2:])))
    first = list(scorer.run(shards[:2]))
    second.join(WAIT_S)
    assert [type(done) for done in [*first, *found]] == [Done] * 4
    assert [done.shard for done in [*first, *found]] == [0, 1, 2, 3]
    assert computed == [0, 1, 2, 3]


def test_a_part_that_another_run_stores_meanwhile_is_not_computed(world, monkeypatch):
    world.write("a.parquet", 20)
    work, shards = planned(world)
    list(ShardScorer(work, world.scorer).run(shards))
    scorer = ShardScorer(work, world.scorer)
    monkeypatch.setattr(scorer.store, "stored_parts", set)
    monkeypatch.setattr(scorer, "_answers", lambda ready: pytest.fail("computed"))
    assert [(done.shard, done.is_new) for done in scorer.run(shards)] == [(0, False), (1, False)]


@pytest.mark.parametrize(("least", "is_compiled"), [(0.0, True), (1e9, False)])
def test_compiling_is_decided_by_the_rows_ahead(world, monkeypatch, caplog, least, is_compiled):
    caplog.set_level("INFO")
    world.write("a.parquet", 10)
    work, shards = planned(world)
    tried = []
    monkeypatch.setattr(world.scorer, "compile", tried.append)
    monkeypatch.setattr(workers, "COMPILE_PAYS_S", {"cpu": least})
    scorer = ShardScorer(work, world.scorer)
    ready = next(scorer._read(shards))
    for _ in range(2):
        scorer._compile_if_it_pays(ready, ready.seconds + 1, 50)
    assert len(tried) == is_compiled
    choice = "compiled" if is_compiled else "not compiled"
    assert caplog.messages == [f"the model is {choice}: 50 rows ahead, 5 s above reading"]


def test_a_model_that_waits_for_reading_is_not_compiled(world, monkeypatch):
    world.write("a.parquet", 10)
    work, shards = planned(world)
    monkeypatch.setattr(world.scorer, "compile", lambda sample: pytest.fail("compiled"))
    monkeypatch.setattr(workers, "COMPILE_PAYS_S", {"cpu": 0.0})
    scorer = ShardScorer(work, world.scorer)
    ready = next(scorer._read(shards))
    scorer._compile_if_it_pays(ready, ready.seconds / 2, 10**9)


def test_storage_is_asked_by_the_reader(world, monkeypatch):
    """A slow answer must not keep the device waiting."""
    world.write("a.parquet", 20)
    work, shards = planned(world)
    scorer = ShardScorer(work, world.scorer)
    ready = list(scorer._read(shards))
    monkeypatch.setattr(storage, "exists", lambda path: pytest.fail("asked"))
    assert [scorer._score(item, 0).answers.outcome.probabilities.shape for item in ready] == [
        (10, 3)
    ] * 2
