"""Shard dispatch and retries, without a cluster."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clftask.distributed.score.dispatcher import MAX_ATTEMPTS, Dispatcher
from clftask.errors import DataError, JobError, Problem
from clftask.scoring.manifest import Piece, Shard

DIED = JobError(Problem("worker", None, "died"))
UNREADABLE = DataError(Problem("a.csv", None, "cannot be read"))


def shards_of(*counts: int) -> list[Shard]:
    """Return shards of ten rows: as many of each file as is said."""
    places = [(file, start) for file, count in enumerate(counts) for start in range(count)]
    return [
        Shard(index=index, pieces=(Piece(file=file, start=10 * start, num_rows=10),))
        for index, (file, start) in enumerate(places)
    ]


def shard(index: int, *pieces: tuple[int, int, int]) -> Shard:
    return Shard(
        index=index, pieces=tuple(Piece(file=f, start=s, num_rows=n) for f, s, n in pieces)
    )


def indices(shards) -> list[int]:
    return [shard.index for shard in shards]


def batches(dispatcher: Dispatcher) -> list[list[int]]:
    """Return all that is handed out when nothing fails."""
    found = []
    while shard_batch := dispatcher.next():
        found.append(indices(shard_batch))
    return found


# ------------------------------------------------------------------ batches


@pytest.mark.parametrize(
    ("workers", "sizes"),
    [
        (1, [20]),
        (2, [5, 4, 3, 2, 2, 1, 1, 1, 1]),
        (10, [1] * 20),
        (100, [1] * 20),
    ],
)
def test_batches_shrink_and_keep_the_order(workers, sizes):
    found = batches(Dispatcher(shards_of(20), workers))
    assert [len(shard_batch) for shard_batch in found] == sizes
    assert list(chain(*found)) == list(range(20))


def test_a_long_batch_ends_with_its_file_and_a_short_one_does_not():
    """Eight shards are long: reading, computing and writing overlap within them."""
    found = batches(Dispatcher(shards_of(10, 3, 3), 1))
    assert found == [list(range(10)), list(range(10, 16))]
    small = batches(Dispatcher(shards_of(*[1] * 20), 1))
    assert [len(shard_batch) for shard_batch in small] == [8, 8, 4]


def test_a_long_batch_ends_where_shards_do_not_follow_each_other():
    shards = shards_of(12)
    gap = [*shards[:8], *shards[9:]]
    assert batches(Dispatcher(gap, 1)) == [[0, 1, 2, 3, 4, 5, 6, 7], [9, 10, 11]]


def test_a_batch_continues_from_the_last_piece_to_the_first():
    mixed = shard(7, (0, 70, 5), (1, 0, 10))
    following = shard(8, (1, 10, 10))
    other = shard(9, (4, 20, 10))  # would follow if it were of the same file
    found = batches(Dispatcher([*shards_of(7), mixed, following, other], 1))
    assert found == [[0, 1, 2, 3, 4, 5, 6, 7, 8], [9]]


def test_nothing_waits_when_all_is_handed_out():
    dispatcher = Dispatcher(shards_of(1), 4)
    assert indices(dispatcher.next()) == [0]
    assert not dispatcher.waiting
    assert dispatcher.next() == []
    assert Dispatcher([], 4).next() == []


# ------------------------------------------------------------------ failures


def test_what_was_not_finished_is_handed_out_next_in_its_order():
    dispatcher = Dispatcher(shards_of(16), 2)
    shard_batch = dispatcher.next()
    assert indices(shard_batch) == [0, 1, 2, 3]
    dispatcher.take_back(shard_batch[1:], None)
    assert indices(dispatcher.waiting) == [1, 2, 3, *range(4, 16)]
    assert not dispatcher.attempts
    assert indices(dispatcher.next()) == [1, 2, 3, 4]


def test_the_first_is_at_fault_and_tried_again_last():
    dispatcher = Dispatcher(shards_of(8), 1)
    dispatcher.take_back(dispatcher.next(), DIED)
    assert indices(dispatcher.waiting) == [1, 2, 3, 4, 5, 6, 7, 0]
    assert dispatcher.attempts == {0: 1}
    assert dispatcher.failed == {}


def test_a_finished_batch_leaves_no_shard_at_fault():
    dispatcher = Dispatcher(shards_of(2), 1)
    dispatcher.next()
    dispatcher.take_back([], DIED)
    assert indices(dispatcher.waiting) == []
    assert (dispatcher.attempts, dispatcher.failed) == ({}, {})


def test_the_third_failure_is_the_last():
    (only,) = shards_of(1)
    dispatcher = Dispatcher([only], 1)
    for error in (DIED, DIED, UNREADABLE):
        assert dispatcher.failed == {}
        assert dispatcher.next() == [only]
        dispatcher.take_back([only], error)
    assert dispatcher.next() == []
    assert dispatcher.failed == {0: UNREADABLE}


def test_a_permanent_error_is_not_retried():
    dispatcher = Dispatcher(shards_of(8), 1)
    dispatcher.take_back(dispatcher.next(), UNREADABLE, is_permanent=True)
    assert indices(dispatcher.waiting) == [1, 2, 3, 4, 5, 6, 7]
    assert dispatcher.failed == {0: UNREADABLE}


def test_others_are_not_blamed_for_a_shard_that_kills_its_workers():
    """Shard 2 kills every worker that scores it, in any batch."""
    dispatcher, done = Dispatcher(shards_of(12), 1), []
    while shard_batch := dispatcher.next():
        poisoned = indices(shard_batch).index(2) if 2 in indices(shard_batch) else len(shard_batch)
        done += indices(shard_batch[:poisoned])
        dispatcher.take_back(shard_batch[poisoned:], DIED)
    assert sorted(done) == [0, 1, *range(3, 12)]
    assert dispatcher.failed == {2: DIED}
    assert dispatcher.attempts == {2: 3}


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(1, 12), max_size=6),
    workers=st.integers(1, 5),
    choices=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12), st.booleans()), max_size=80),
)
def test_every_shard_is_done_or_failed_once_whatever_fails(counts, workers, choices):
    """Workers take batches, finish some of each, and fail, or just end, or finish."""
    shards = shards_of(*counts)
    dispatcher = Dispatcher(shards, workers)
    busy: list[list[Shard]] = []
    done: Counter[int] = Counter()
    blamed: Counter[int] = Counter()
    plan = iter(choices)
    while dispatcher.waiting or busy:
        while len(busy) < workers and (shard_batch := dispatcher.next()):
            busy.append(shard_batch)
        held = indices([*dispatcher.waiting, *chain(*busy)])
        assert sorted([*held, *done, *dispatcher.failed]) == list(range(len(shards)))
        # Once all choices are made nothing fails any more.
        who, num_done, fails = next(plan, (0, len(busy[0]), False))
        shard_batch = busy.pop(who % len(busy))
        finished, left = shard_batch[:num_done], shard_batch[num_done:]
        done.update(indices(finished))
        blamed.update(indices(left[:1]) if fails else [])
        dispatcher.take_back(left, DIED if fails else None)
    assert set(done.values()) <= {1}
    assert done.keys() | dispatcher.failed.keys() == set(range(len(shards)))
    assert not done.keys() & dispatcher.failed.keys()
    assert dispatcher.attempts == blamed
    assert dispatcher.failed.keys() == {i for i, n in blamed.items() if n == MAX_ATTEMPTS == 3}


@settings(deadline=None)
@given(counts=st.lists(st.integers(1, 12), max_size=6), workers=st.integers(2, 5))
def test_all_is_handed_out_once_in_ever_shorter_batches(counts, workers):
    shards = shards_of(*counts)
    found = batches(Dispatcher(shards, workers))
    assert list(chain(*found)) == list(range(len(shards)))
    left = len(shards)
    for shard_batch in found:
        assert len(shard_batch) < left / (2 * workers) + 1
        left -= len(shard_batch)
