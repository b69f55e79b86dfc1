"""transformers' TrainingArguments of a job."""

from __future__ import annotations

from typing import Any

from transformers import TrainingArguments

from clftask.config.train import TrainJob


def training_arguments(
    job: TrainJob, folder: str, world: int, device: str, precision: str
) -> TrainingArguments:
    """Return the TrainingArguments of one of `world` workers."""
    t = job.training
    return TrainingArguments(
        **{"logging_steps": 10, **t.hf.dump()},
        output_dir=folder,
        seed=job.seed,
        # Without use_cpu, accelerate trains independent models on CPU instead of one with DDP.
        use_cpu=device == "cpu",
        num_train_epochs=t.epochs,
        per_device_train_batch_size=t.batch_size // world,
        learning_rate=t.learning_rate,
        warmup_steps=t.warmup,
        weight_decay=t.weight_decay,
        max_grad_norm=t.max_grad_norm,
        lr_scheduler_type=t.schedule.trainer_name,
        optim=t.optimizer.trainer_name,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        full_determinism=t.deterministic,
        activation_checkpointing=t.gradient_checkpointing,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_first_step=True,
        # By default, Trainer hides a NaN loss in its log; `StopOnNan` must see it.
        logging_nan_inf_filter=False,
        metric_for_best_model=f"eval_{t.metric}",
        greater_is_better=t.greater_is_better,
        report_to=[t.value for t in job.tracking] or "none",
        disable_tqdm=True,
        # Trainer would drop the columns that the model's forward does not accept.
        remove_unused_columns=False,
        # By default, DDP searches unused parameters in each step, and sends constants (buffers).
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        dataloader_pin_memory=device == "cuda",
    )


def precision_of(args: Any) -> str:
    """Return the precision of TrainingArguments."""
    return "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
