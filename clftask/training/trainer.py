"""A transformers Trainer whose results do not depend on the number of workers.

`Trainer` multiplies the loss of BERT-type classifiers by workers times accumulation steps: it
expects the model to normalise by `num_items_in_batch`, which the classification loss ignores.
Its batches change with the number of workers, and it gathers all logits on the device.
For `ClassifierTrainer`, one item of the data loader is one optimiser step: a worker's share
of a global batch, split into micro batches.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import PrinterCallback, TrainingArguments

from clftask.array_types import Float32
from clftask.components.labels import LabelSpace, multi_hot
from clftask.config.train import TrainJob
from clftask.data.batching import (
    EpochLoader,
    GlobalBatches,
    Limit,
    MicroBatches,
    num_global_rows,
)
from clftask.data.targets import targets_of, train_labels
from clftask.messages import first_line
from clftask.models.memory import is_device_failure, is_out_of_memory, unless_out_of_memory
from clftask.models.padding import least_width
from clftask.models.weights import Weights
from clftask.training.checkpointed_trainer import CheckpointedTrainer
from clftask.training.collectives import all_agree, broadcast_from_first
from clftask.training.compiling import Compiling
from clftask.training.features import Features, encoder_gives, features_of
from clftask.training.inference import Inference, row_too_large
from clftask.training.parameter_groups import parameter_groups
from clftask.training.validation import validation_metrics

NUM_TRIED = 4  # rows

_log = logging.getLogger(__name__)


class ClassifierTrainer(CheckpointedTrainer):
    """A Trainer whose steps do not depend on the number of workers.

    Args:
        job: The training job.
        weights: Those of a sequence classification model.
        tokenizer: Its tokenizer.
        args: From `training_arguments`.
        tables: Tokenised splits: at least train and validation.
        space: The labels.
        fresh: Names of newly initialised parameters; they use the head's learning rate.
    """

    def __init__(
        self,
        job: TrainJob,
        weights: Weights,
        tokenizer: Any,
        args: TrainingArguments,
        tables: dict[str, pa.Table],
        space: LabelSpace,
        fresh: set[str],
    ) -> None:
        rows, model = tables["validation"], weights.model
        super().__init__(model=model, args=args, eval_dataset=rows, processing_class=tokenizer)
        self.remove_callback(PrinterCallback)  # disable_tqdm adds it; it prints to stdout
        self.job, self.tables, self.space, self.fresh = job, tables, space, fresh
        names = len(space.names)
        self.row_loss = job.loss.rows_for(job.task, train_labels(tables["train"], names))
        widths = job.transformer.max_length, least_width(model)
        limit = Limit.of(job.training.micro_batch_size, args.device.type)
        self.batches = MicroBatches(tables["train"], tokenizer, names, limit, *widths)
        self.weights = weights
        self.inference = Inference(self.model, tokenizer, job, args, names)
        self.note: Callable[[str], None] = _log.warning  # receives what a user should know
        self.is_uploading: Callable[[], bool] = lambda: False  # a checkpoint
        notes, trial = lambda line: self.note(line), self.precision_failure
        self.compiling = Compiling(self.model, args, job.training, trial, notes)
        self.add_callback(self.compiling)
        self.features: Features | None = None
        self.known_features: Callable[[], Features | None] = lambda: None  # of a search
        self.rows_seen = 0
        self.fallback = ""  # why fp32 replaces a faster precision

    control: Any

    # -------------------------------------------------------------- training

    def get_train_dataloader(self) -> EpochLoader:
        """Return a loader of this worker's shares of the global batches."""
        # Trainer's own samplers group by length within a process, so batches depend on workers.
        args, num_workers = self.args, self.args.dataloader_num_workers
        sampler = GlobalBatches(
            self.batches.lengths,
            self.job.training.batch_size,
            self.job.seed,
            args.process_index,
            args.world_size,
        )
        return EpochLoader(
            self.batches,
            batch_sampler=sampler,
            collate_fn=list,  # the items are micro batches already
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=args.dataloader_pin_memory,
        )

    def create_optimizer(self, model: Any = None) -> Any:
        """Create the optimiser, with learning rates of their own for head and layers."""
        if self.optimizer is None:
            cls, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            if "fused" in inspect.signature(cls).parameters:
                # Equal steps, in a third of the time on a CPU; torch 2.13 has no SGD for shards.
                options["fused"] = not self.inference.is_sharded or cls is torch.optim.AdamW
            self.optimizer = cls(self._parameter_groups(), **options)
        return self.optimizer

    def _parameter_groups(self) -> list[dict[str, Any]]:
        decayed = set(self.get_decay_parameter_names(self.model))
        return parameter_groups(self.model, self.fresh, decayed, self.job.training)

    def train(self, *args: Any, **options: Any) -> Any:
        """Train; on a GPU, first find micro batches that fit into its memory."""
        self._keep_features()
        if self.args.device.type == "cuda" and self.features is None:
            self.fit_memory()
        try:
            return super().train(*args, **options)
        finally:
            self.compiling.stop()

    def _keep_features(self) -> None:
        """Run a frozen encoder once; the epochs then train the head on its features."""
        if not self.job.transformer.adapt.trains_layers:
            known = self.known_features()
            self.features = features_of(self.inference, self.tables, self.note, known)
        if self.features is not None:
            self.batches.use_features(self.features.splits["train"])
            self.compiling.leave_out("the encoder runs only once")

    def fit_memory(self) -> None:
        """Try a step of the longest rows; halve the micro batches until it fits on all workers.

        Raises:
            JobError: A single row does not fit.
        """
        if self.args.activation_checkpointing:  # Trainer enables it later
            self.model.activation_checkpointing_enable()
        size = self.args.per_device_train_batch_size
        longest = np.argsort(-self.batches.lengths, kind="stable")[:size]
        while True:
            micro = self.batches.cut(longest, np.zeros(len(longest), np.float32))[0]
            if all_agree(self._fits(micro)):
                return
            self._shrink(micro)

    def _fits(self, micro: dict[str, Any]) -> bool:
        """Tell whether a step fits into memory, beside gradients and the optimiser's state."""

        def step() -> bool:
            reserved = torch.empty(self._num_states(), device=self.args.device)
            self.accelerator.backward(self._trial_loss(self._prepare_input(micro)))
            del reserved
            return True

        self.model.train()
        found = unless_out_of_memory(step)
        self.model.zero_grad(set_to_none=True)
        return found is not None

    def _num_states(self) -> int:
        """Return the numbers that the optimiser and DDP hold on this worker."""
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        more = self.job.training.optimizer.states_per_weight + (self.args.world_size > 1)
        return int(trained * more)

    def _trial_loss(self, micro: dict[str, Any]) -> torch.Tensor:
        with self.inference.autocast():
            return self._weighted_loss(self.model, micro)

    def _shrink(self, micro: dict[str, Any]) -> None:
        """Limit all further micro batches to half the size of one that did not fit.

        Raises:
            JobError: It has only one row.
        """
        inputs, width = micro["input_ids"].shape
        if len(micro["rows"]) == 1:
            raise row_too_large(self.job, self.args, int(micro["attention_mask"].sum()))
        self.batches.limit = Limit(inputs // 2, inputs * width // 2)
        self.note(f"out of memory: {inputs} x {width} tokens; the micro batches are halved")

    def training_step(
        self, model: Any, inputs: Any, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Run the forward and backward passes of one step; DDP syncs gradients in the last.

        If a micro batch does not fit into memory, the step begins again with smaller ones; if
        compiled layers fail, without these.
        """
        model.train()
        self.rows_seen += num_global_rows(inputs, self.args.world_size)
        while True:
            parts = [part for micro in inputs for part in self.batches.within_limit(micro)]
            total = self.compiling.unless_it_fails(self._step, model, parts)
            if total is not None:
                return total
            model.zero_grad(set_to_none=True)

    def _step(self, model: Any, parts: list[dict[str, Any]]) -> torch.Tensor | None:
        """Return the loss of a step; None after `_shrink`."""
        total = torch.zeros((), device=self.args.device)
        for i, micro in enumerate(self._prepare_inputs(parts)):
            loss = self._pass(model, micro, i == len(parts) - 1)
            if loss is None:
                self._shrink(parts[i])
                return None
            total += loss
        return total

    def _pass(self, model: Any, micro: dict[str, Any], is_last: bool) -> torch.Tensor | None:
        """Run the passes of a micro batch; return the loss, or None if memory ran out."""
        with contextlib.nullcontext() if is_last else self.accelerator.no_sync(model):
            loss = unless_out_of_memory(self._weighted_loss, model, micro)
            return None if loss is None else self._backward(loss, is_last)

    def _backward(self, loss: torch.Tensor, is_last: bool) -> torch.Tensor | None:
        """Run the backward pass; return the loss, or None if it ran out of memory."""

        def run() -> torch.Tensor:
            self.accelerator.backward(loss)
            return loss.detach()

        # The last pass of several workers syncs gradients while it runs: it cannot be repeated.
        return run() if is_last and self.args.world_size > 1 else unless_out_of_memory(run)

    def _prepare_input(self, data: Any) -> Any:
        """Copy to the device without waiting: the loader's batches are pinned."""
        if isinstance(data, torch.Tensor):
            return data.to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    def _weighted_loss(self, model: Any, micro: dict[str, Any]) -> torch.Tensor:
        inputs = dict(micro)
        targets, weight, _ = (inputs.pop(name) for name in ("targets", "weight", "rows"))
        windows, row_weights = inputs.pop("windows", None), inputs.pop("row_weights", None)
        states = inputs.pop("features", None)
        with self.compute_loss_context_manager(), encoder_gives(self.model, states):
            logits = model(**inputs).logits.float()
        logits = self.job.transformer.long_text.pooled_tensor(logits, windows)
        weight = weight if row_weights is None else weight * row_weights
        loss: torch.Tensor = (self.row_loss(logits, targets) * weight).sum()
        return loss

    def floating_point_ops(self, inputs: Any) -> int:
        """Return 0: Trainer's estimate expects a dict, not a list of micro batches."""
        return 0

    # -------------------------------------------------------------- evaluation

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Compute the validation metrics, log them, and return them on all workers."""
        logits = self.logits_of("validation")
        metrics: dict[str, float] = {}
        if logits is not None:
            targets = self.targets_of("validation")
            found = {"loss": self.mean_loss("validation", logits)}
            found |= validation_metrics(self.job, self.space, logits, targets)
            metrics = {f"eval_{k}": v for k, v in found.items()}
        metrics = broadcast_from_first(metrics)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    @property
    def has_bf16_weights(self) -> bool:
        """Whether frozen weights are kept in bf16 while it trains."""
        return bool(self.args.bf16 and self.job.training.weights == "bf16")

    def use(self, model: Any) -> None:
        """Evaluate this model, which is on its device, from now on."""
        self.model = self.model_wrapped = self.inference.model = self.weights.model = model
        self.inference.forget_padding()

    def mean_loss(self, split: str, logits: Float32) -> float:
        """Return the mean training loss of a split, given its logits; row weights do not count."""
        targets = targets_of(self.tables[split], len(self.space.names))
        parts = [
            self.row_loss(
                torch.from_numpy(logits[i : i + 4096]), torch.tensor(targets[i : i + 4096])
            )
            for i in range(0, len(logits), 4096)
        ]
        return float(torch.cat(parts).mean())

    def targets_of(self, split: str) -> Float32:
        """Return the (rows, labels) float32 indicator matrix of a split."""
        return multi_hot(self.tables[split]["labels"].combine_chunks(), len(self.space.names))

    def exact_logits_of(self, split: str) -> Float32 | None:
        """Return the logits of a split in fp32, whatever the training's precision was.

        To be called after training: accelerate's autocast is removed from the model.
        """
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        return self.logits_of(split, is_exact=True)

    def logits_of(self, split: str, is_exact: bool = False) -> Float32 | None:
        """Return (rows, labels) float32 logits of a split on the first worker, else None.

        Unless `is_exact`, they are computed in the training's precision.
        """
        if self.features is not None and self.features.cover(split, is_exact):
            return self.features.logits(self.inference, self.tables[split], split)
        with self.compiling.paused():
            return self.inference.logits(self.tables[split], is_exact)

    def precision_failure(self) -> str:
        """Try a step on a few rows; return why it fails in this precision, "" if it works."""
        chosen = np.arange(min(NUM_TRIED, len(self.batches)))
        micros = self.batches.cut(chosen, np.ones(len(chosen), np.float32))
        try:
            with torch.random.fork_rng():
                self.model.train()
                for micro in self._prepare_inputs(micros):
                    loss = self._trial_loss(micro)
                    self.accelerator.backward(loss)
                    if not torch.isfinite(loss):
                        return "the loss is NaN or infinite"
        except Exception as error:  # models raise all classes
            if is_out_of_memory(error) or is_device_failure(error):
                return ""  # training will meet it, or not
            return first_line(error)
        finally:
            self.model.zero_grad(set_to_none=True)
        return ""
