"""The Trainer's arguments for a job."""

from __future__ import annotations

import tempfile

from transformers import TrainingArguments

from clftask.config.train import TrainJob
from clftask.errors import ConfigError, Problem

SCHEDULES = {"constant": "constant_with_warmup"}
OPTIMIZERS = {"adamw": "adamw_torch_fused"}  # a step of MiniLM: 25 ms instead of 95 on a CPU


def training_arguments(
    job: TrainJob, folder: str, world: int, device: str, precision: str
) -> TrainingArguments:
    """Return the Trainer's arguments for one of `world` workers."""
    t = job.training
    return TrainingArguments(
        **t.hf,
        output_dir=folder,
        seed=job.seed,
        use_cpu=device == "cpu",
        num_train_epochs=t.epochs,
        per_device_train_batch_size=t.batch_size // world,
        gradient_accumulation_steps=1,
        learning_rate=t.learning_rate,
        warmup_steps=t.warmup,
        weight_decay=t.weight_decay,
        max_grad_norm=t.max_grad_norm,
        lr_scheduler_type=SCHEDULES.get(t.schedule, t.schedule),
        optim=OPTIMIZERS.get(t.optimizer, t.optimizer),
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        full_determinism=t.deterministic,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_steps=10,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        metric_for_best_model=f"eval_{t.metric}",
        greater_is_better=t.greater_is_better,
        report_to=list(job.tracking) or "none",
        disable_tqdm=True,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=device == "cuda",
    )


def check_arguments(job: TrainJob) -> None:
    """Refuse `training.hf` entries that the Trainer does not know or cannot use.

    Raises:
        ConfigError: Says what the Trainer says.
    """
    plain = job.model_copy(update={"tracking": ()})
    try:
        with tempfile.TemporaryDirectory() as folder:
            training_arguments(plain, folder, 1, "cpu", "fp32")
    except (TypeError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split()).replace("TrainingArguments.__init__() ", "")
        raise ConfigError(Problem("training.hf", job.training.hf, reason)) from None
