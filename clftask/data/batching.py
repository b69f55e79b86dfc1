"""Sampling and padding: the global batches are the same for any number of workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from clftask.array_types import Float32
from clftask.components.labels import multi_hot
from clftask.data.targets import soft_targets, weights_of
from clftask.data.tokenization import one_array, sequences

# Rows are sorted by length within windows of this many batches. A larger window needs less
# padding; a smaller one shuffles better.
WINDOW = 50

# Tokens, with padding, of the forward pass of a training step. Larger ones are not faster on a
# CPU, and need more memory.
MICRO_TOKENS = {"cuda": 65_536, "cpu": 2_048}

Share = list[tuple[int, float]]


@dataclass(frozen=True)
class Limit:
    """The maximum size of a micro batch.

    Attributes:
        inputs: Maximum number of model inputs; None if unlimited.
        tokens: Maximum number of model inputs times padded length; None if unlimited.
    """

    inputs: int | None = None
    tokens: int | None = None

    @classmethod
    def of(cls, wanted: int | Literal["auto"], device: str) -> Limit:
        """Return the limit of a job's `micro_batch_size` on a device, cpu or cuda."""
        return cls(tokens=MICRO_TOKENS[device]) if wanted == "auto" else cls(wanted)

    def halved(self) -> Limit:
        """Return half the limit, at least one model input."""
        inputs = None if self.inputs is None else max(1, self.inputs // 2)
        return Limit(inputs, None if self.tokens is None else self.tokens // 2)

    def allows(self, inputs: int, width: int) -> bool:
        """Tell whether a micro batch of this size is allowed."""
        is_short = self.tokens is None or inputs * width <= self.tokens
        return is_short and (self.inputs is None or inputs <= self.inputs)


class GlobalBatches(Sampler[Share]):
    """Batch sampler: global batches of similar lengths, split among the workers.

    The batches depend only on the seed and the epoch. A worker gets every `world`-th row of
    each batch, with the weight `world / rows of the global batch`. DDP averages the workers'
    gradients, so the weighted sum of the row losses equals the mean over the global batch,
    also for a smaller last batch. A worker without rows gets one row of weight 0. Row weights of
    the data, whose mean is 1, multiply the losses; the number of rows still divides them, so that
    the expected step is that of the weighted mean over all rows.

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


class MicroBatches(Dataset[list[dict[str, Any]]]):
    """A tokenised table whose items are shares of global batches, cut into padded micro batches.

    Args:
        table: Tokenised rows with labels.
        tokenizer: Pads on its own side.
        num_labels: The number of labels.
        limit: The maximum size of a micro batch; a larger row is a micro batch of its own.
        max_length: Maximum number of tokens of one model input.
        least_width: The least number of tokens to pad to.
    """

    def __init__(
        self,
        table: pa.Table,
        tokenizer: Any,
        num_labels: int,
        limit: Limit,
        max_length: int,
        least_width: int = 1,
    ) -> None:
        tokens, counts = sequences(table)
        self.flat = FlatTokens(tokens, least_width)
        self.lengths = table["length"].to_numpy().astype(np.int64)
        self.has_windows = counts is not None
        self.counts = np.ones(len(self.lengths), np.int64) if counts is None else counts
        self.starts = np.cumsum(self.counts) - self.counts
        self.labels, self.soft = one_array(table["labels"]), soft_targets(table)
        self.row_weights = weights_of(table)
        self.tokenizer, self.num_labels, self.limit = tokenizer, num_labels, limit
        self.widths = widths(_longest(self.flat.lengths, self.starts), max_length, least_width)
        self.features: Float32 | None = None

    def use_features(self, features: Float32) -> None:
        """Give features (model inputs, size) for `encoder_gives`, beside one token that is read."""
        self.features, self.widths = features, np.ones_like(self.widths)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitems__(self, share: Share) -> list[dict[str, Any]]:
        rows = np.array([row for row, _ in share])
        weights = np.array([weight for _, weight in share], np.float32)
        order = np.argsort(-self.lengths[rows], kind="stable")
        return self.cut(rows[order], weights[order])

    def within_limit(self, micro: dict[str, Any]) -> list[dict[str, Any]]:
        """Return a micro batch, cut again if it is larger than `limit`."""
        if self.limit.allows(*micro["input_ids"].shape):
            return [micro]
        return self.cut(micro["rows"], micro["weight"].numpy())

    def cut(
        self, rows: npt.NDArray[np.int64], weights: npt.NDArray[np.float32]
    ) -> list[dict[str, Any]]:
        """Return micro batches of at most `limit`, for rows by descending length.

        Each has the model's inputs, `windows` (model inputs of each row; absent without windows),
        `targets` (rows, labels), `weight` (rows,), `row_weights` (rows,; absent without them) and
        `rows`, the indices of its rows.
        """
        ends = np.cumsum(self._sizes(rows))[:-1]
        parts = zip(np.split(rows, ends), np.split(weights, ends), strict=True)
        return [self._padded(some, weight) for some, weight in parts]

    def _sizes(self, rows: npt.NDArray[np.int64]) -> list[int]:
        """Return the number of rows of each micro batch."""
        sizes: list[int] = []
        inputs = width = 0
        for more, longest in zip(
            self.counts[rows].tolist(), self.widths[rows].tolist(), strict=True
        ):
            inputs, width = inputs + more, max(width, longest)
            if sizes and self.limit.allows(inputs, width):
                sizes[-1] += 1
            else:
                sizes.append(1)
                inputs, width = more, longest
        return sizes

    def _inputs(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the model inputs of rows: their windows, row after row."""
        if not self.has_windows:
            return rows
        counts = self.counts[rows]
        before = np.cumsum(counts) - counts
        return np.repeat(self.starts[rows] - before, counts) + np.arange(counts.sum())

    def _padded(
        self, rows: npt.NDArray[np.int64], weights: npt.NDArray[np.float32]
    ) -> dict[str, Any]:
        places = self._inputs(rows)
        if self.features is None:
            inputs = self.flat.padded(places, self.tokenizer, int(self.widths[rows].max()))
        else:
            inputs = feature_inputs(self.features[places], self.tokenizer)
        if self.soft is None:
            targets = multi_hot(self.labels.take(pa.array(rows)), self.num_labels)
        else:
            targets = self.soft[rows]
        more: dict[str, Any] = {}
        if self.has_windows:
            more["windows"] = self.counts[rows].tolist()
        if self.row_weights is not None:
            more["row_weights"] = torch.from_numpy(self.row_weights[rows].astype(np.float32))
        return {
            **inputs,
            **more,
            "targets": torch.from_numpy(targets),
            "weight": torch.from_numpy(weights),
            "rows": rows,
        }


def feature_inputs(features: Float32, tokenizer: Any) -> dict[str, torch.Tensor]:
    """Return the inputs of a model whose encoder gives features (rows, size) as its only state.

    Each row has one token, which is not padding: heads look for the last token or the mean.
    """
    ones = torch.ones((len(features), 1), dtype=torch.int64)
    return {
        "input_ids": ones * int(tokenizer.pad_token_id == 0),
        "attention_mask": ones,
        "features": torch.tensor(features).unsqueeze(1),  # those of a search are read-only
    }


def widths(
    lengths: npt.NDArray[np.int64], max_length: int, least_width: int
) -> npt.NDArray[np.int64]:
    """Return the lengths that training pads to: multiples of 8 where that allows `max_length`."""
    multiple = 1 if max_length % 8 else 8
    return -(-np.maximum(lengths, least_width) // multiple) * multiple


def _longest(
    lengths: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return the greatest length of each row's model inputs."""
    return np.maximum.reduceat(lengths, starts) if len(starts) else lengths


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

    def padded(
        self, rows: npt.NDArray[np.int64], tokenizer: Any, width: int | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the model inputs for some rows, each of shape (rows, width), int64."""
        lengths = self.lengths[rows][:, None]
        if width is None:
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
