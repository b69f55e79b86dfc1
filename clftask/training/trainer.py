"""A transformers Trainer whose results do not depend on the number of workers.

`Trainer` multiplies the loss of BERT-type classifiers by workers times accumulation steps: it
expects the model to normalise by `num_items_in_batch`, which the classification loss ignores.
Its batches change with the number of workers, and it gathers all logits on the device.
For `ClassifierTrainer`, one item of the data loader is one optimiser step: a worker's share
of a global batch, split into micro batches.
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from safetensors.torch import load_model, save_model
from transformers import PrinterCallback, Trainer, TrainingArguments

from clftask.array_types import Float32
from clftask.components.decision.calibration import probabilities_of
from clftask.components.decision.decision import Decision
from clftask.components.decision.thresholds import best_global_threshold
from clftask.components.labels import LabelSpace, multi_hot
from clftask.components.losses import TrainLabels
from clftask.components.metrics import compute
from clftask.config.train import TrainJob
from clftask.data.batching import (
    Collator,
    EpochLoader,
    FlatTokens,
    GlobalBatches,
    TokenRows,
    num_global_rows,
    token_batches,
)
from clftask.data.tokenization import sequences
from clftask.io.tempdirs import translate_write_errors
from clftask.messages import first_line
from clftask.models.memory import is_device_failure, is_out_of_memory
from clftask.models.padding import depends_on_padding, least_width
from clftask.training.collectives import broadcast_from_first, host_group

# Rows times padded length of one forward pass. Larger batches are not faster.
MAX_TOKENS = {"cuda": 32_768, "cpu": 8_192}
MAX_MICRO_BATCH = {"cuda": 256, "cpu": 32}
WEIGHTS = "model.safetensors"
NUM_TRIED = 4  # rows


class ClassifierTrainer(Trainer):  # type: ignore[misc]
    """A Trainer whose steps do not depend on the number of workers.

    Args:
        job: The training job.
        model: A sequence classification model.
        tokenizer: Its tokenizer.
        args: From `training_arguments`.
        tables: Tokenised splits: at least train and validation.
        space: The labels.
        fresh: Names of newly initialised parameters; they use the head's learning rate.
    """

    def __init__(
        self,
        job: TrainJob,
        model: Any,
        tokenizer: Any,
        args: TrainingArguments,
        tables: dict[str, pa.Table],
        space: LabelSpace,
        fresh: set[str],
    ) -> None:
        rows = TokenRows(tables["validation"])
        super().__init__(model=model, args=args, eval_dataset=rows, processing_class=tokenizer)
        self.remove_callback(PrinterCallback)  # disable_tqdm adds it; it prints to stdout
        self.job, self.tables, self.space, self.fresh = job, tables, space, fresh
        self.row_loss = job.loss.rows_for(job.task, self._train_labels())
        widths = job.model.max_length, least_width(model)
        self.collator = Collator(tokenizer, len(space.names), self._micro_batch_size(), *widths)
        self.rows_seen = 0
        self.fallback = ""  # why fp32 replaces a faster precision

    optimizer: Any
    lr_scheduler: Any
    control: Any

    def _micro_batch_size(self) -> int:
        wanted = self.job.training.micro_batch_size
        limit = MAX_MICRO_BATCH[self.args.device.type] if wanted == "auto" else wanted
        return min(limit, int(self.args.per_device_train_batch_size))

    # -------------------------------------------------------------- training

    def get_train_dataloader(self) -> EpochLoader:
        """Return a loader of this worker's shares of the global batches."""
        # Trainer's own samplers group by length within a process, so batches depend on workers.
        table, args = self.tables["train"], self.args
        lengths = table["length"].to_numpy().astype(np.int64)
        sampler = GlobalBatches(
            lengths,
            self.job.training.batch_size,
            self.job.seed,
            args.process_index,
            args.world_size,
        )
        return EpochLoader(
            TokenRows(table),
            batch_sampler=sampler,
            collate_fn=self.collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
        )

    def create_optimizer(self, model: Any = None) -> Any:
        """Create the optimiser, with a separate learning rate for new parameters."""
        if self.optimizer is None:
            cls, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = cls(self._parameter_groups(), **options)
        return self.optimizer

    def _parameter_groups(self) -> list[dict[str, Any]]:
        decayed = set(self.get_decay_parameter_names(self.model))
        groups: dict[tuple[bool, bool], list[Any]] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                groups.setdefault((name in self.fresh, name in decayed), []).append(parameter)
        rates = {True: self.job.training.head_rate, False: self.args.learning_rate}
        return [
            {"params": p, "lr": rates[fresh], "weight_decay": self.args.weight_decay * decays}
            for (fresh, decays), p in groups.items()
        ]

    def training_step(
        self, model: Any, inputs: Any, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Run the forward and backward passes of one step; DDP syncs gradients in the last."""
        model.train()
        self.rows_seen += num_global_rows(inputs, self.args.world_size)
        total = torch.zeros((), device=self.args.device)
        for i, micro in enumerate(self._prepare_inputs(inputs)):
            is_last = i == len(inputs) - 1
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(model):
                loss = self._weighted_loss(model, micro)
                self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _weighted_loss(self, model: Any, micro: dict[str, torch.Tensor]) -> torch.Tensor:
        targets, weight = micro.pop("targets"), micro.pop("weight")
        with self.compute_loss_context_manager():
            windows = micro.pop("windows", None)
            logits = model(**micro).logits.float()
        logits = self.job.model.long_text.pooled_tensor(logits, windows)
        return (self.row_loss(logits, targets) * weight).sum()

    def floating_point_ops(self, inputs: Any) -> int:
        """Return 0: Trainer's estimate expects a dict, not a list of micro batches."""
        return 0

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the weights under the names of the model's parameters; loading is strict."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(folder / WEIGHTS))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint in the temporary folder.

        Raises:
            StorageError: Its disk is full, or cannot be written.
        """
        with translate_write_errors(self.args.output_dir):
            super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load the weights; missing or mismatched ones raise an error."""
        load_model(self.model, Path(resume_from_checkpoint, WEIGHTS), strict=True)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load the optimiser's state, but take the hyperparameters from the job.

        Trainer restores the learning rates of the checkpoint. In PBT, it may be another trial's
        and would undo the mutation.
        """
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        # torch's LambdaLR computes each rate from base_lrs, which its state_dict restores.
        schedule = self.lr_scheduler
        own = self._parameter_groups()
        schedule.base_lrs = [group["lr"] for group in own]
        schedule._last_lr = [
            group["lr"] * share(schedule.last_epoch)
            for group, share in zip(own, schedule.lr_lambdas, strict=True)
        ]
        for i, group in enumerate(self.optimizer.param_groups):
            group["initial_lr"], group["lr"] = schedule.base_lrs[i], schedule._last_lr[i]
            group["weight_decay"] = own[i]["weight_decay"]

    def _save_rng_state(self, output_dir: str) -> None:
        """Save nothing: `StepSeed` derives the random state from the step."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Load nothing, as nothing is saved."""

    # -------------------------------------------------------------- evaluation

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Compute the validation metrics, log them, and return them on all workers."""
        logits = self.logits_of("validation")
        metrics: dict[str, float] = {}
        if logits is not None:
            metrics = {f"eval_{k}": v for k, v in self._validation_metrics(logits).items()}
        metrics = broadcast_from_first(metrics)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _validation_metrics(self, logits: Float32) -> dict[str, float]:
        """Return the job's metric, micro- and macro-F1 and the loss, at the best threshold.

        With a fixed threshold, the F1 of a multilabel model would be 0 for the first epochs,
        and early stopping would end the run.
        """
        targets = self.targets_of("validation")
        probabilities = probabilities_of(logits, self.space.task)
        decision = Decision()
        if self.space.task == "multilabel":
            threshold = best_global_threshold(probabilities, targets, self.job.average)
            decision = Decision(threshold=threshold)
        decided = decision.decide(probabilities, self.space.task)
        names = list(dict.fromkeys(["micro_f1", "macro_f1", self.job.training.metric]))
        names = [name for name in names if name != "loss"]
        positive = self.space.positive_index
        found = compute(probabilities, decided, targets, self.space.task, names, positive)
        # A young model may predict no label at all: its undefined macro average must not win.
        defined = {name: float(np.nan_to_num(value)) for name, value in found.items()}
        return {"loss": self.mean_loss(logits, targets), **defined}

    def mean_loss(self, logits: Float32, targets: Float32) -> float:
        """Return the mean training loss of rows, given their logits."""
        parts = [
            self.row_loss(
                torch.from_numpy(logits[i : i + 4096]), torch.from_numpy(targets[i : i + 4096])
            )
            for i in range(0, len(logits), 4096)
        ]
        return float(torch.cat(parts).mean())

    def _train_labels(self) -> TrainLabels:
        codes = self.tables["train"]["labels"].combine_chunks()
        counts = np.bincount(codes.flatten().to_numpy(), minlength=len(self.space.names))
        return TrainLabels(counts.astype(float), len(codes))

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

        Each worker computes its share; the device holds only one batch of logits at a time.
        Unless `is_exact`, they are computed in the training's precision.
        """
        table, windows = sequences(self.tables[split])
        world = self.args.world_size
        lengths = table["length"].to_numpy().astype(np.int64)
        max_tokens, tokenizer = MAX_TOKENS[self.args.device.type], self.processing_class
        equal = depends_on_padding(self._exact, tokenizer, self.job.model.max_length)
        batches = token_batches(lengths, max_tokens, self.args.process_index, world, equal)
        mine = torch.zeros(math.ceil(len(lengths) / world), len(self.space.names))
        flat, filled = FlatTokens(table, least_width(self.model)), 0
        for batch in batches:
            logits = self._forward(flat.padded(batch, tokenizer), is_exact)
            mine[filled : filled + len(batch)] = logits
            filled += len(batch)
        found = self._gathered(mine, lengths)
        return None if found is None else self.job.model.long_text.pooled(found, windows)

    @torch.inference_mode()
    def _forward(self, batch: dict[str, torch.Tensor], is_exact: bool) -> torch.Tensor:
        self.model.eval()
        with contextlib.nullcontext() if is_exact else self._autocast():
            logits: torch.Tensor = self.model(**self._prepare_inputs(batch)).logits
        return logits.float().cpu()

    def _exact(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self._forward(batch, is_exact=True)

    def _autocast(self) -> torch.autocast:
        half = torch.float16 if self.args.fp16 else torch.bfloat16
        is_half = self.args.fp16 or self.args.bf16
        return torch.autocast(self.args.device.type, half, enabled=is_half)

    def precision_failure(self) -> str:
        """Try a step on a few rows; return why it fails in this precision, "" if it works."""
        rows = TokenRows(self.tables["train"])
        chosen = rows.__getitems__([(i, 1.0) for i in range(min(NUM_TRIED, len(rows)))])
        try:
            with torch.random.fork_rng():
                self.model.train()
                for micro in self._prepare_inputs(self.collator(chosen)):
                    with self._autocast():
                        loss = self._weighted_loss(self.model, micro)
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
