"""Failures in a pool of scoring actors, without a cluster."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray

from clftask.distributed.capacity import WorkerPlan
from clftask.distributed.score import actor_pool as pools
from clftask.distributed.score.actor_pool import (
    MAX_FAILURES,
    MAX_NODES,
    Pool,
    num_token_processes,
)
from clftask.distributed.score.dispatcher import MAX_ATTEMPTS, Dispatcher
from clftask.errors import AccessError, JobError, Problem, StorageError
from clftask.scoring.manifest import Counts, Piece, Precision, Receipt, Shard
from clftask.scoring.worker import Done, Failure

FULL = StorageError(Problem("s3://bucket/out", None, "the disk is full"))
BF16 = Precision(asked="auto", used="bf16", agreement=1.0, rows=256)
GONE = ray.exceptions.RayActorError(error_msg="The actor died because its node has died.")


def shards(count: int) -> list[Shard]:
    return [Shard(index=i, pieces=(Piece(file=0, start=i, num_rows=1),)) for i in range(count)]


def done(index: int) -> Done:
    receipt = Receipt(
        shard=index, input="x", counts=Counts(rows_in=1), sha256="", num_bytes=1, seconds=1
    )
    return Done(receipt, is_new=True)


class Script:
    """Fake Ray: actors return scripted answers, one at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Any, load: Any = None) -> None:
        self.answer, self.load_answer = answer, load or (lambda number: None)
        self.agree_answer: Any = lambda number: BF16
        self.killed: list[Any] = []
        monkeypatch.setattr(pools.ray, "get", self.get)
        monkeypatch.setattr(pools.ray, "put", lambda value: value)
        monkeypatch.setattr(pools.ray, "kill", self.killed.append)
        monkeypatch.setattr(pools.ray, "wait", lambda refs, timeout: (list(refs), []))
        monkeypatch.setattr(pools.ray, "remote", lambda **options: lambda kind: self)
        self.number = 0

    def get(self, reference: Any) -> Any:
        found = reference() if callable(reference) else reference
        if isinstance(found, BaseException) and not isinstance(found, AccessError):
            raise found
        return found

    def options(self, **options: Any) -> Any:
        return SimpleNamespace(remote=self.actor)

    def actor(self, *_: Any) -> Any:
        number, self.number = self.number, self.number + 1
        load = SimpleNamespace(remote=lambda *_: lambda: self.load_answer(number))
        agree = SimpleNamespace(remote=lambda: lambda: self.agree_answer(number))
        run = SimpleNamespace(remote=lambda shards, ahead: Answers(self.answer, shards))
        found = SimpleNamespace(load=load, agree=agree)
        found.run = SimpleNamespace(options=lambda **_: run)
        found.__ray_ready__ = SimpleNamespace(remote=lambda: None)
        return found


class Answers:
    """What a batch gives, shard after shard."""

    def __init__(self, answer: Any, shards: list[Shard]) -> None:
        self.rest, self.answer, self.is_over = iter(shards), answer, False

    def __next__(self) -> Any:
        if self.is_over:
            raise StopIteration
        found = self.answer(next(self.rest))
        self.is_over = isinstance(found, Failure)
        return found


def work_off(dispatcher: Dispatcher, chosen: WorkerPlan) -> list[int]:
    output = SimpleNamespace(output=SimpleNamespace(path="s3://bucket/out"))
    with Pool(SimpleNamespace(job=output), chosen, lambda line: None) as pool:
        return [found.shard for found in pool.done(dispatcher)]


def test_a_write_that_fails_for_good_ends_the_job_before_all_is_scored(monkeypatch):
    tried: list[int] = []

    def fail(shard: Shard) -> Failure:
        tried.append(shard.index)
        return Failure(shard.index, FULL, ends_job=False)

    Script(monkeypatch, fail)
    with pytest.raises(JobError, match="the disk is full"):
        work_off(Dispatcher(shards(5_000), 2), WorkerPlan(2, False, 1))
    assert len(tried) == 2 * MAX_FAILURES + 1


def test_a_permanent_error_costs_one_attempt_and_no_worker(monkeypatch):
    spoilt = JobError(Problem("shard 1", None, "ValueError: spoilt"))
    tried: list[int] = []

    def answer(shard: Shard) -> Any:
        tried.append(shard.index)
        return Failure(1, spoilt, is_permanent=True) if shard.index == 1 else done(shard.index)

    script = Script(monkeypatch, answer)
    dispatcher = Dispatcher(shards(4), 1)
    assert sorted(work_off(dispatcher, WorkerPlan(1, False, 1))) == [0, 2, 3]
    assert sorted(tried) == [0, 1, 2, 3]
    assert dispatcher.failed == {1: spoilt}
    assert script.number == 1


def test_failures_between_shards_that_get_done_end_nothing(monkeypatch):
    failed: dict[int, int] = {}

    def fail_thrice(shard: Shard) -> Any:
        if shard.index % 3 or failed.get(shard.index, 0) == MAX_ATTEMPTS:
            return done(shard.index)
        failed[shard.index] = failed.get(shard.index, 0) + 1
        return Failure(shard.index, FULL, ends_job=False)

    Script(monkeypatch, fail_thrice)
    dispatcher = Dispatcher(shards(30), 1)
    found = work_off(dispatcher, WorkerPlan(1, False, 1))
    assert sorted(found) == [i for i in range(30) if i % 3]
    assert sorted(dispatcher.failed) == list(range(0, 30, 3))


def test_a_shard_that_takes_every_node_with_it_is_given_up(monkeypatch):
    tried: list[int] = []

    def lose(shard: Shard) -> Any:
        tried.append(shard.index)
        return GONE if shard.index == 3 else done(shard.index)

    Script(monkeypatch, lose)
    dispatcher = Dispatcher(shards(10), 1)
    assert sorted(work_off(dispatcher, WorkerPlan(1, False, 1))) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert list(dispatcher.failed) == [3]
    assert tried.count(3) == MAX_NODES - 1 + MAX_ATTEMPTS


def test_a_node_that_was_to_be_taken_away_is_never_the_shards_fault(monkeypatch):
    left = [2 * MAX_NODES]

    def lose(shard: Shard) -> Any:
        if not left[0]:
            return done(shard.index)
        left[0] -= 1
        return ray.exceptions.RayActorError(error_msg="its node has died", preempted=True)

    Script(monkeypatch, lose)
    dispatcher = Dispatcher(shards(3), 1)
    assert sorted(work_off(dispatcher, WorkerPlan(1, False, 1))) == [0, 1, 2]
    assert dispatcher.failed == {}


@pytest.mark.parametrize("bad", [0, 1])
def test_a_machine_that_may_not_read_the_bundle_ends_the_job_only_as_the_first(monkeypatch, bad):
    """The first worker's error holds for all; a later one concerns its own node only."""
    refusal = AccessError(Problem("bundle", None, "access is refused"))
    lost: list[int] = []

    def lose_once(shard: Shard) -> Any:
        if shard.index == 1 and not lost:
            lost.append(1)
            return GONE
        return done(shard.index)

    Script(monkeypatch, lose_once, lambda number: refusal if number == bad else None)
    dispatcher = Dispatcher(shards(4), 1)
    if bad == 0:
        with pytest.raises(JobError, match="access is refused"):
            work_off(dispatcher, WorkerPlan(1, False, 1))
    else:
        assert work_off(dispatcher, WorkerPlan(1, False, 1)) == [0, 1, 2, 3]


# ------------------------------------------------------------------ the precision of a table


def pool_of(workers: int) -> Pool:
    work = SimpleNamespace(job=SimpleNamespace(output=SimpleNamespace(path="s3://bucket/out")))
    return Pool(work, WorkerPlan(workers, False, 1), lambda line: None)


def test_one_worker_chooses_the_precision_and_all_start_at_once(monkeypatch):
    asked: list[int] = []
    script = Script(monkeypatch, lambda shard: done(shard.index))
    script.agree_answer = lambda number: asked.append(number) or BF16
    with pool_of(3) as pool:
        assert pool.agree(10) == BF16
        assert (asked, script.number) == ([0], 3)
        pool.use(SimpleNamespace())
        found = [found.shard for found in pool.done(Dispatcher(shards(10), 3))]
    assert sorted(found) == list(range(10))
    assert (asked, script.number) == ([0], 3)


def test_if_the_worker_that_chooses_dies_the_next_one_does(monkeypatch):
    script = Script(monkeypatch, lambda shard: done(shard.index))
    script.agree_answer = lambda number: GONE if number < 2 else BF16
    with pool_of(1) as pool:
        assert pool.agree(1) == BF16
    assert len(script.killed) == 3


def test_workers_that_keep_dying_choose_nothing(monkeypatch):
    script = Script(monkeypatch, lambda shard: done(shard.index))
    script.agree_answer = lambda number: RuntimeError("broken")
    with pool_of(1) as pool, pytest.raises(JobError, match=r"workers keep dying: .*broken"):
        pool.agree(1)


def test_an_error_of_the_worker_that_chooses_is_the_users(monkeypatch):
    script = Script(monkeypatch, lambda shard: done(shard.index))
    script.agree_answer = lambda number: AccessError(Problem("bundle", None, "access is refused"))
    with pool_of(1) as pool, pytest.raises(AccessError, match="access is refused"):
        pool.agree(1)


# ------------------------------------------------------------------ processes, and batches ahead


@pytest.mark.parametrize(
    ("device", "cpus", "count"),
    [("cpu", 16, 0), ("cuda", 1, 0), ("cuda", 3.5, 0), ("cuda", 4, 2), ("cuda", 16, 14)],
)
def test_processes_that_tokenise_follow_from_the_cpus(device, cpus, count):
    assert num_token_processes(device, cpus) == count


class Ahead(Script):
    """Notes which shards each call of `run` is given, and which results were seen before it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
        super().__init__(monkeypatch, self.seen)
        self.calls: list[tuple[int, list[int], list[int]]] = []
        self.done: list[int] = []
        self.next_answer = answer

    def seen(self, shard: Shard) -> Any:
        self.done.append(shard.index)
        return self.next_answer(shard)

    def actor(self, *_: Any) -> Any:
        number, found = self.number, super().actor()
        run = found.run.options().remote

        def noted(shards: list[Shard], ahead: int) -> Any:
            self.calls.append((number, [s.index for s in shards], list(self.done)))
            return run(shards, ahead)

        found.run = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=noted))
        return found


def separate(count: int) -> list[Shard]:
    """Shards of files of their own: a batch has eight at most."""
    return [Shard(index=i, pieces=(Piece(file=i, start=0, num_rows=1),)) for i in range(count)]


def test_the_next_batch_is_there_before_the_last_shard_begins(monkeypatch):
    script = Ahead(monkeypatch, lambda shard: done(shard.index))
    assert sorted(work_off(Dispatcher(separate(20), 1), WorkerPlan(1, False, 1))) == [*range(20)]
    assert script.number == 1
    assert [given for _, given, _ in script.calls] == [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [8, 9, 10, 11, 12, 13, 14, 15],
        [16, 17, 18, 19],
    ]
    assert script.calls[1][2] == [0, 1, 2, 3, 4, 5]  # shard 6 is computed, and 7 is not


def test_of_few_shards_none_is_given_ahead(monkeypatch):
    """Another worker may be idle sooner."""
    script = Ahead(monkeypatch, lambda shard: done(shard.index))
    work_off(Dispatcher(separate(2), 2), WorkerPlan(2, False, 1))
    assert [number for number, _, _ in script.calls] == [0, 1]


def test_a_worker_that_dies_gives_both_batches_back_and_only_the_first_shard_is_at_fault(
    monkeypatch,
):
    left = [1]

    def dies_once(shard: Shard) -> Any:
        if shard.index == 7 and left:
            left.clear()
            return RuntimeError("the worker died")
        return done(shard.index)

    script = Ahead(monkeypatch, dies_once)
    dispatcher = Dispatcher(separate(20), 1)
    assert sorted(work_off(dispatcher, WorkerPlan(1, False, 1))) == [*range(20)]
    assert dispatcher.attempts == {7: 1}
    assert script.number == 2
    assert len(script.killed) == 2
