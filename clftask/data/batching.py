"""Sampling and padding: the global batches are the same for any number of workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from clftask.data.tokenization import one_array

# Rows are sorted by length within windows of this many batches. A larger window needs less
# padding; a smaller one shuffles better.
WINDOW = 50

# The columns of a tokenised table that training and evaluation fetch row by row.
USED = ("input_ids", "token_type_ids", "windows", "labels")

Share = list[tuple[int, float]]


class GlobalBatches(Sampler[Share]):
    """Batch sampler: global batches of similar lengths, split among the workers.

    The batches depend only on the seed and the epoch. A worker gets every `world`-th row of
    each batch, with the weight `world / rows of the global batch`. DDP averages the workers'
    gradients, so the weighted sum of the row losses equals the mean over the global batch,
    also for a smaller last batch. A worker without rows gets one row of weight 0.

    The Trainer's own length-grouped sampler groups within the batch of each process, so its
    batches change with the number of workers.
    """

    def __init__(
        self, lengths: npt.NDArray[np.int64], batch_size: int, seed: int, rank: int, world: int
    ) -> None:
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        self.rank, self.world, self.epoch = rank, world, 0

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that determines the order of `__iter__`."""
        self.epoch = epoch

    def batches(self) -> list[npt.NDArray[np.int64]]:
        """Return the epoch's global batches of row indices, each sorted by descending length."""
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.lengths))
        window = WINDOW * self.batch_size
        found = []
        for start in range(0, len(order), window):
            part = order[start : start + window]
            part = part[np.argsort(-self.lengths[part], kind="stable")]
            found += [part[i : i + self.batch_size] for i in range(0, len(part), self.batch_size)]
        return [found[i] for i in rng.permutation(len(found))]

    def __iter__(self) -> Iterator[Share]:
        for batch in self.batches():
            mine = batch[self.rank :: self.world]
            weight = self.world / len(batch)
            yield [(int(i), weight) for i in mine] or [(int(batch[0]), 0.0)]


class TokenRows(Dataset[dict[str, Any]]):
    """Map-style dataset over a tokenised table; fetches whole batches without copying the table."""

    def __init__(self, table: pa.Table) -> None:
        import datasets

        used = table.select([name for name in USED if name in table.column_names])
        # Without a fingerprint, datasets hashes all rows.
        self.rows = datasets.Dataset(used, fingerprint="tokens")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, pair: tuple[int, float]) -> dict[str, Any]:
        return self.__getitems__([pair])[0]

    def __getitems__(self, pairs: Share) -> list[dict[str, Any]]:
        rows = self.rows[[i for i, _ in pairs]]
        names = list(rows)
        return [
            dict(zip(names, values, strict=True)) | {"weight": weight}
            for (_, weight), values in zip(pairs, zip(*rows.values(), strict=True), strict=True)
        ]


class Collator:
    """Splits a worker's share of a global batch into padded micro batches of similar lengths."""

    def __init__(
        self,
        tokenizer: Any,
        num_labels: int,
        micro_batch_size: int,
        max_length: int,
        least_width: int = 1,
    ) -> None:
        from transformers import DataCollatorWithPadding

        multiple = least_width if max_length % 8 else 8  # padding must not exceed max_length
        self.pad = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=multiple)
        self.num_labels, self.micro_batch_size = num_labels, micro_batch_size

    def __call__(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, torch.Tensor]]:
        ordered = sorted(rows, key=lambda row: -len(row["input_ids"]))
        return [self.one(part) for part in self._parts(ordered)]

    def _parts(self, rows: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        """Yield groups of at most `micro_batch_size` windows; a row with more is its own group."""
        part: list[dict[str, Any]] = []
        size = 0
        for row in rows:
            more = len(row["windows"]) if "windows" in row else 1
            if part and size + more > self.micro_batch_size:
                yield part
                part, size = [], 0
            part.append(row)
            size += more
        yield part

    def inputs(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Pad rows into the model's inputs; each window becomes one input row."""
        names = [n for n in ("input_ids", "token_type_ids") if n in rows[0]]
        if "windows" not in rows[0]:
            return dict(self.pad([{n: row[n] for n in names} for row in rows]))
        windows = []
        for row in rows:
            ends = np.cumsum(row["windows"])[:-1]
            parts = zip(*(np.split(row[n], ends) for n in names), strict=True)
            windows += [dict(zip(names, window, strict=True)) for window in parts]
        return {**self.pad(windows), "windows": torch.tensor([len(row["windows"]) for row in rows])}

    def one(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Pad rows into one batch: model inputs, `targets` (rows, labels) and `weight`."""
        inputs = self.inputs(rows)
        targets = torch.zeros(len(rows), self.num_labels)
        for i, row in enumerate(rows):
            targets[i, row["labels"]] = 1.0
        weight = torch.tensor([row.get("weight", 1.0) for row in rows])
        return {**inputs, "targets": targets, "weight": weight}


def num_global_rows(share: Sequence[dict[str, torch.Tensor]], world: int) -> int:
    """Return the number of rows in the share's global batch; 0 if the share has no rows of it.

    Args:
        share: Micro batches with the weights from `GlobalBatches`.
        world: Number of workers.
    """
    weight = float(share[0]["weight"][0])
    return round(world / weight) if weight else 0


class EpochLoader(DataLoader[Any]):
    """A DataLoader that passes the epoch to its batch sampler."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the batch sampler; accelerate's SkipBatchSampler wraps it."""
        sampler: Any = getattr(self.batch_sampler, "batch_sampler", self.batch_sampler)
        sampler.set_epoch(epoch)


def token_batches(
    lengths: npt.NDArray[np.int64],
    max_tokens: int,
    rank: int = 0,
    world: int = 1,
    equal: bool = False,
) -> list[npt.NDArray[np.int64]]:
    """Return one worker's batches of row indices, longest first, of at most `max_tokens` each.

    `max_tokens` limits rows times padded length; a longer row is a batch of its own. If `equal`,
    the rows of a batch have the same length, so that there is no padding.
    """
    order = np.argsort(-lengths, kind="stable")[rank::world]
    batches, start = [], 0
    while start < len(order):
        size = max(1, int(max_tokens // max(int(lengths[order[start]]), 1)))
        batch = order[start : start + size]
        if equal:
            batch = batch[lengths[batch] == lengths[batch[0]]]
        batches.append(batch)
        start += len(batch)
    return batches


class FlatTokens:
    """Tokens as flat arrays, for fast padding of any rows.

    Args:
        tokens: One row per model input; see `tokenization.sequences`.
        least_width: The least number of tokens to pad to.
        multiple: Of which the number of tokens is a multiple.
    """

    def __init__(self, tokens: pa.Table, least_width: int = 1, multiple: int = 1) -> None:
        self.least_width, self.multiple = least_width, multiple
        names = [n for n in ("input_ids", "token_type_ids") if n in tokens.column_names]
        columns = {n: one_array(tokens[n]) for n in names}
        self.values = {n: column.flatten().to_numpy() for n, column in columns.items()}
        self.lengths = tokens["length"].to_numpy().astype(np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths

    def padded(self, rows: npt.NDArray[np.int64], tokenizer: Any) -> dict[str, torch.Tensor]:
        """Return the model inputs for some rows, each of shape (rows, width), int64."""
        lengths = self.lengths[rows][:, None]
        width = max(int(lengths.max()), self.least_width)
        width = -(-width // self.multiple) * self.multiple
        column = np.arange(width)
        if tokenizer.padding_side == "left":
            column = column - (width - lengths)
        is_padding = (column < 0) | (column >= lengths)
        places = self.starts[rows][:, None] + column
        fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": 0}
        found = {"attention_mask": torch.from_numpy((~is_padding).astype(np.int64))}
        for name, values in self.values.items():
            padded = values.take(places, mode="clip").astype(np.int64)
            padded[is_padding] = fill[name]
            found[name] = torch.from_numpy(padded)
        return found
