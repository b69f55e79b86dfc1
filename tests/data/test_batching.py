"""The same global batches on any number of workers."""

from itertools import chain
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from accelerate import skip_first_batches
from transformers import AutoTokenizer

from clftask.data.batching import (
    EpochLoader,
    FlatTokens,
    GlobalBatches,
    Limit,
    MicroBatches,
    num_global_rows,
    token_batches,
)

LENGTHS = np.random.default_rng(0).integers(3, 60, 103)
WORLDS = [1, 2, 3, 4, 6, 12]
BATCH_SIZE = 12  # 103 rows: eight batches of 12 and one of 7


def sampler(world=1, rank=0, seed=5, lengths=LENGTHS, batch_size=BATCH_SIZE):
    return GlobalBatches(lengths, batch_size, seed, rank, world)


def shares(world, epoch=0, **options):
    """Return, for each global batch, the share of each worker."""
    workers = [sampler(world, rank, **options) for rank in range(world)]
    for worker in workers:
        worker.set_epoch(epoch)
    return list(zip(*workers, strict=True))


# ------------------------------------------------------------------ global batches


@pytest.mark.parametrize("world", WORLDS)
def test_shares_of_all_workers_are_the_global_batch(world):
    whole = [sorted(batch.tolist()) for batch in sampler().batches()]
    found = [sorted(row for share in batch for row, w in share if w) for batch in shares(world)]
    assert found == whole
    assert sorted(len(batch) for batch in found) == [7, *[12] * 8]


@pytest.mark.parametrize("world", WORLDS)
def test_mean_over_workers_of_weighted_sums_is_the_global_mean(world):
    losses = np.random.default_rng(1).random(len(LENGTHS))
    for batch in shares(world):
        sums = [sum(losses[row] * weight for row, weight in share) for share in batch]
        rows = [row for share in batch for row, weight in share if weight]
        assert np.mean(sums) == pytest.approx(losses[rows].mean())


def test_weights_by_hand():
    # Two batches: of 4 rows and of 1; on three workers.
    full, ragged = sorted(shares(3, lengths=np.array([5, 4, 3, 2, 1]), batch_size=4), reverse=True,
                          key=lambda batch: sum(len(share) for share in batch))  # fmt: skip
    assert [[weight for _, weight in share] for share in full] == [[0.75, 0.75], [0.75], [0.75]]
    assert [[weight for _, weight in share] for share in ragged] == [[3.0], [0.0], [0.0]]
    assert len({row for share in ragged for row, _ in share}) == 1


@pytest.mark.parametrize("world", WORLDS)
def test_every_worker_with_a_row_knows_the_size_of_the_global_batch(world):
    for batch in shares(world):
        rows = sum(weight > 0 for share in batch for _, weight in share)
        for share in batch:
            micro = [{"weight": torch.tensor([weight for _, weight in share])}]
            assert num_global_rows(micro, world) == (rows if share[0][1] else 0)


def test_each_row_once_an_epoch():
    rows = list(chain.from_iterable(sampler().batches()))
    assert sorted(rows) == list(range(103))
    assert len(sampler()) == len(list(sampler())) == 9


def test_epoch_and_seed_change_the_order_and_nothing_else_does():
    def order(epoch, seed=5):
        worker = sampler(seed=seed)
        worker.set_epoch(epoch)
        return [row for share in worker for row, _ in share]

    assert order(0) == order(0)
    assert order(1) == order(1)
    assert len({tuple(order(0)), tuple(order(1)), tuple(order(0, seed=6))}) == 3


def test_rows_of_a_batch_have_similar_lengths_in_a_random_order_of_batches():
    batches = sampler().batches()
    assert all((np.diff(LENGTHS[batch]) <= 0).all() for batch in batches)
    longest = [LENGTHS[batch].max() for batch in batches]
    assert max(LENGTHS[batch].max() - LENGTHS[batch].min() for batch in batches) < 20
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


def test_lengths_are_sorted_within_a_window_alone():
    lengths = np.arange(300)
    batches = GlobalBatches(lengths, 2, 5, 0, 1).batches()  # windows of 100 rows
    spread = [batch.max() - batch.min() for batch in batches]
    assert 1 < np.mean(spread) < 10


# ------------------------------------------------------------------ rows and padding


@pytest.fixture(scope="module")
def cut(tiny_base):
    """A function from a table to its micro batches."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)

    def of(rows, limit=None, max_length=64, least_width=1):
        return MicroBatches(rows, tokenizer, 3, limit or Limit(2), max_length, least_width)

    return of


def shapes(micro):
    return [tuple(m["input_ids"].shape) for m in micro]


def everything(batches):
    """Return the micro batches of all rows as one share."""
    return batches.__getitems__([(i, 1.0) for i in range(len(batches))])


def test_a_model_that_pools_tokens_gets_no_fewer(cut):
    """CANINE pools four characters; a batch of one-character texts has three tokens."""
    rows = table([3, 3])
    found = [shapes(everything(cut(rows, max_length=30, least_width=n))) for n in (1, 4)]
    assert found == [[(2, 3)], [(2, 4)]]


def table(lengths, **columns):
    ids = [[2, *[70 + i % 20] * (n - 2), 3] for i, n in enumerate(lengths)]
    labels = [[i % 3] if i % 4 else [] for i in range(len(lengths))]
    return pa.table(
        {
            "input_ids": pa.array(ids, pa.list_(pa.int32())),
            "labels": pa.array(labels, pa.list_(pa.int32())),
            "length": np.asarray(lengths),
            **columns,
        }
    )


def test_a_share_is_cut_into_padded_micro_batches(cut):
    batches = cut(table([3, 20, 4, 9, 5]))
    micro = batches.__getitems__([(i, i / 10) for i in range(5)])
    assert len(batches) == 5
    assert shapes(micro) == [(2, 24), (2, 8), (1, 8)]
    first, _, last = micro
    assert sorted(first) == ["attention_mask", "input_ids", "rows", "targets", "weight"]
    assert first["attention_mask"].sum(1).tolist() == [20, 9]
    assert first["input_ids"][1].tolist() == [2, *[73] * 7, 3, *[0] * 15]
    assert first["targets"].tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    torch.testing.assert_close(first["weight"], torch.tensor([0.1, 0.3]))
    assert [m["rows"].tolist() for m in micro] == [[1, 3], [4, 2], [0]]
    assert last["targets"].tolist() == [[0.0, 0.0, 0.0]]  # row 0 has no label
    assert {name: first[name].dtype for name in ("input_ids", "targets", "weight")} == {
        "input_ids": torch.int64, "targets": torch.float32, "weight": torch.float32,
    }  # fmt: skip


def test_padding_is_on_the_side_of_the_tokenizer(tiny_base):
    tokenizer = AutoTokenizer.from_pretrained(tiny_base, padding_side="left")
    (micro,) = everything(MicroBatches(table([3, 8]), tokenizer, 3, Limit(2), 64))
    assert micro["input_ids"][1].tolist() == [0, 0, 0, 0, 0, 2, 70, 3]
    assert micro["attention_mask"][1].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]


def test_a_limit_of_tokens_gives_short_rows_larger_micro_batches(cut):
    rows = table([20, 17, 8, 7, 6, 5, 4, 3])
    assert shapes(everything(cut(rows, Limit(tokens=48)))) == [(2, 24), (6, 8)]
    assert shapes(everything(cut(rows, Limit(inputs=4, tokens=48)))) == [(2, 24), (4, 8), (2, 8)]
    assert shapes(everything(cut(rows, Limit(tokens=1)))) == [*[(1, 24)] * 2, *[(1, 8)] * 6]


def test_a_micro_batch_is_cut_again_below_a_lower_limit(cut):
    batches = cut(table([20, 9, 8, 3]), Limit(4))
    (whole,) = batches.__getitems__([(i, i / 10) for i in range(4)])
    assert batches.within_limit(whole) == [whole]
    batches.limit = Limit(2, 48)
    parts = batches.within_limit(whole)
    assert shapes(parts) == [(2, 24), (2, 8)]
    for name in ("targets", "weight"):
        assert torch.equal(torch.cat([part[name] for part in parts]), whole[name])
    assert [part["rows"].tolist() for part in parts] == [[0, 1], [2, 3]]


def test_micro_batches_keep_the_types_of_pairs(cut):
    types = pa.array([[0, 0, 1], [0, 1, 1, 1]], pa.list_(pa.int32()))
    (batch,) = everything(cut(table([3, 4], token_type_ids=types)))
    assert batch["token_type_ids"].tolist() == [[0, 1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0]]


def test_the_windows_of_a_row_stay_together(cut):
    windows = pa.array([[4], [9, 2, 2], [3, 3]], pa.list_(pa.int32()))
    batches = cut(table([4, 13, 6], windows=windows), Limit(3))
    micro = everything(batches)
    assert [m["windows"] for m in micro] == [[3], [2, 1]]
    assert shapes(micro) == [(3, 16), (3, 8)]
    assert micro[0]["attention_mask"].sum(1).tolist() == [9, 2, 2]
    assert micro[1]["attention_mask"].sum(1).tolist() == [3, 3, 4]
    assert micro[0]["input_ids"][1].tolist() == [71, 71, *[0] * 14]
    assert [m["rows"].tolist() for m in micro] == [[1], [2, 0]]


# ------------------------------------------------------------------ the loader


@pytest.fixture
def loader(cut):
    lengths = LENGTHS[:50]
    batches = GlobalBatches(lengths, 8, 5, 0, 1)
    return EpochLoader(cut(table(lengths)), batch_sampler=batches, collate_fn=list)


def epoch_of(loader, epoch):
    """Return each batch as the shape and sum of its micro batches."""
    loader.set_epoch(epoch)
    return [[(*m["input_ids"].shape, int(m["input_ids"].sum())) for m in item] for item in loader]


def test_loader_passes_the_epoch_on(loader):
    first, second = epoch_of(loader, 0), epoch_of(loader, 1)
    assert len(loader) == len(first) == 7
    assert first != second
    assert epoch_of(loader, 0) == first


def test_a_resumed_epoch_starts_where_it_stopped(loader):
    whole = epoch_of(loader, 1)
    loader.set_epoch(0)
    rest = skip_first_batches(loader, 3)
    # What transformers' Trainer does after a resume: plain loaders have no set_epoch.
    rest.batch_sampler.batch_sampler.set_epoch(1)
    found = [[(*m["input_ids"].shape, int(m["input_ids"].sum())) for m in item] for item in rest]
    assert found == whole[3:]
    assert epoch_of(loader, 2) not in (whole, epoch_of(loader, 0))


def test_a_loader_of_our_own_around_skipped_batches_passes_the_epoch_on(loader):
    whole = epoch_of(loader, 1)
    loader.set_epoch(0)
    skipping = skip_first_batches(loader, 3).batch_sampler
    rest = EpochLoader(loader.dataset, batch_sampler=skipping, collate_fn=loader.collate_fn)
    assert epoch_of(rest, 1) == whole[3:]


# ------------------------------------------------------------------ evaluation batches


@pytest.mark.parametrize("world", [1, 2, 3])
def test_token_batches_hold_each_row_once_and_respect_the_limit(world):
    batches = [
        [LENGTHS[b] for b in token_batches(LENGTHS, 200, rank, world)] for rank in range(world)
    ]
    rows = [token_batches(LENGTHS, 200, rank, world) for rank in range(world)]
    assert sorted(chain.from_iterable(chain.from_iterable(rows))) == list(range(103))
    for lengths in chain.from_iterable(batches):
        assert len(lengths) * lengths.max() <= 200
        assert (np.diff(lengths) <= 0).all()


def test_token_batches_by_hand():
    lengths = np.array([2, 9, 5, 4, 1])
    assert [b.tolist() for b in token_batches(lengths, 10)] == [[1], [2, 3], [0, 4]]
    # A row above the limit goes alone.
    assert [b.tolist() for b in token_batches(lengths, 4)] == [[1], [2], [3], [0, 4]]
    assert [b.tolist() for b in token_batches(lengths, 100, rank=1, world=2)] == [[2, 0]]
    assert token_batches(np.array([], np.int64), 100) == []
    equal = token_batches(np.array([2, 5, 2, 5, 2]), 6, equal=True)
    assert [b.tolist() for b in equal] == [[1], [3], [0, 2, 4]]


@pytest.mark.parametrize(
    ("side", "ids"),
    [("right", [[4, 5, 6, 0], [7, 0, 0, 0]]), ("left", [[0, 4, 5, 6], [0, 0, 0, 7]])],
)
def test_widths_are_multiples(side, ids):
    rows = pa.array([[7], [1, 2], [4, 5, 6]], pa.list_(pa.int32()))
    flat = FlatTokens(pa.table({"input_ids": rows, "length": [1, 2, 3]}), multiple=4)
    tokenizer = SimpleNamespace(padding_side=side, pad_token_id=0)
    found = flat.padded(np.array([2, 0]), tokenizer)
    assert found["input_ids"].tolist() == ids
    assert found["attention_mask"].tolist() == [[int(i > 0) for i in row] for row in ids]
    least = FlatTokens(pa.table({"input_ids": rows, "length": [1, 2, 3]}), least_width=6)
    assert least.padded(np.array([1]), tokenizer)["input_ids"].shape == (1, 6)
