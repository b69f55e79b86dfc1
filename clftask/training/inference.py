"""Logits of whole splits: each worker computes its share, the first one gathers them."""

from __future__ import annotations

import contextlib
import functools
import math
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
import torch.distributed as dist
from transformers import TrainingArguments

from clftask.array_types import Float32
from clftask.config.train import TrainJob
from clftask.data.batching import FlatTokens, token_batches
from clftask.data.tokenization import sequences
from clftask.errors import JobError, Problem
from clftask.messages import counted
from clftask.models.memory import unless_out_of_memory
from clftask.models.padding import depends_on_padding, least_width
from clftask.training.collectives import all_agree, host_group, worked_everywhere

# Rows times padded length of one forward pass. On a CPU, larger batches are slower.
MAX_TOKENS = {"cuda": 32_768, "cpu": 2_048}


class Inference:
    """Forward passes of a model that is being trained.

    Args:
        model: The model, on its device.
        tokenizer: Its tokenizer.
        job: The training job.
        args: From `training_arguments`.
        num_labels: The number of labels.
    """

    def __init__(
        self, model: Any, tokenizer: Any, job: TrainJob, args: TrainingArguments, num_labels: int
    ) -> None:
        self.model, self.tokenizer, self.job, self.args = model, tokenizer, job, args
        self.size, self.max_tokens = num_labels, MAX_TOKENS[args.device.type]
        self.is_sharded = job.scaling.is_sharded(args.world_size)

    def logits(self, tokens: pa.Table, is_exact: bool) -> Float32 | None:
        """Return (rows, labels) float32 logits on the first worker, else None.

        The device holds only one batch of logits at a time. If a batch does not fit into memory,
        it and all further ones are halved.

        Args:
            tokens: A tokenised split.
            is_exact: Whether they are computed in fp32 instead of the training's precision.

        Raises:
            JobError: A single row does not fit.
        """
        table, windows = sequences(tokens)
        found = self.gathered(table, is_exact)
        return None if found is None else self.job.transformer.long_text.pooled(found, windows)

    def gathered(self, inputs: pa.Table, is_exact: bool) -> Float32 | None:
        """Return what the forward passes give for each model input; on the first worker only."""
        return self._gathered(self._share(inputs, is_exact), inputs["length"].to_numpy())

    def _share(self, table: pa.Table, is_exact: bool) -> torch.Tensor:
        """Return the logits of this worker's rows, by descending length."""
        flat, filled = FlatTokens(table, least_width(self.model)), 0
        equal = self._needs_equal_lengths
        rank, world = self.args.process_index, self.args.world_size
        is_pinned = self.args.dataloader_pin_memory
        shape = math.ceil(len(flat.lengths) / world), self.size
        mine = torch.zeros(shape, pin_memory=is_pinned)
        waiting = deque(token_batches(flat.lengths, self.max_tokens, rank, world, equal))
        while self._goes_on(has_rows := bool(waiting)):
            # A sharded model needs all workers in a pass: those without rows run a short one.
            rows = waiting.popleft() if has_rows else flat.lengths.argmin(keepdims=True)
            logits = self._unless_out_of_memory(flat.padded(rows, self.tokenizer), is_exact)
            if logits is None:
                self._shrink(flat.lengths[rows])
                left = np.concatenate([rows, *waiting]) if has_rows else rows[:0]
                again = token_batches(flat.lengths[left], self.max_tokens, equal=equal)
                waiting = deque(left[batch] for batch in again)
            elif has_rows:
                mine[filled : filled + len(rows)].copy_(logits, non_blocking=is_pinned)
                filled += len(rows)
        if is_pinned:
            torch.cuda.synchronize()
        return mine

    def _goes_on(self, has_rows: bool) -> bool:
        """Tell whether this worker runs another pass; a sharded model runs until all are done."""
        return not all_agree(not has_rows) if self.is_sharded else has_rows

    def _unless_out_of_memory(
        self, inputs: dict[str, torch.Tensor], is_exact: bool
    ) -> torch.Tensor | None:
        logits = unless_out_of_memory(self.forward, inputs, is_exact)
        if self.is_sharded and not worked_everywhere(logits is not None):
            self.model.reset_iter_state()
        return logits

    @functools.cached_property
    def _needs_equal_lengths(self) -> bool:
        """Whether only rows of equal lengths share a batch: the architecture decides it."""
        return depends_on_padding(self._exact, self.tokenizer, self.job.transformer.max_length)

    def forget_padding(self) -> None:
        """Look again which rows share a batch: the model has changed."""
        self.__dict__.pop("_needs_equal_lengths", None)

    def _shrink(self, lengths: npt.NDArray[np.int64]) -> None:
        if len(lengths) == 1:
            raise row_too_large(self.job, self.args, int(lengths[0]))
        self.max_tokens = len(lengths) * int(lengths[0]) // 2

    @torch.no_grad()  # FSDP2 cannot train weights that it gathered in inference mode
    def forward(self, batch: dict[str, torch.Tensor], is_exact: bool) -> torch.Tensor:
        self.model.eval()
        device = self.args.device
        inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        with contextlib.nullcontext() if is_exact else self.autocast():
            logits: torch.Tensor = self.model(**inputs).logits
        return logits.float()

    def _exact(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.forward(batch, is_exact=True).cpu()

    def autocast(self) -> torch.autocast:
        """Return the context of the training's precision."""
        half = torch.float16 if self.args.fp16 else torch.bfloat16
        is_half = self.args.fp16 or self.args.bf16
        return torch.autocast(self.args.device.type, half, enabled=is_half)

    def _gathered(self, mine: torch.Tensor, lengths: Any) -> Float32 | None:
        world, rank = self.args.world_size, self.args.process_index
        parts = [torch.empty_like(mine) for _ in range(world)] if rank == 0 else None
        if world > 1:
            dist.gather(mine, parts, dst=0, group=host_group())
        if rank != 0:
            return None
        order = np.argsort(-lengths, kind="stable")
        whole = np.empty((len(lengths), mine.shape[1]), np.float32)
        for i, part in enumerate(parts if world > 1 and parts else [mine]):
            places = order[i::world]
            whole[places] = part.numpy()[: len(places)]
        return whole


def row_too_large(job: TrainJob, args: TrainingArguments, num_tokens: int) -> JobError:
    """Return the error that one row alone does not fit into memory; a retry cannot help."""
    device = "GPU" if args.device.type == "cuda" else "machine"
    allowed = (
        f"training failed: one row of {counted(num_tokens, 'token')} does not fit into the memory "
        f"of the {device}"
    )
    more = "" if args.activation_checkpointing else ", or set training.gradient_checkpointing"
    remedy = f"Lower model.max_length, use a smaller base or a larger {device}{more}."
    return JobError(Problem("model.base", job.model.base, allowed, remedy))
