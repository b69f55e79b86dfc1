"""Arguments of transformers' Trainer that `training.hf` supports, and substitutes for others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from clftask.spec import Spec

_Share = Annotated[float, Field(ge=0, lt=1)]


_REPLACEMENTS = {
    "run.storage": "output_dir logging_dir",
    "seed": "seed data_seed",
    "training.epochs": "num_train_epochs max_steps",
    "training.batch_size": "per_device_train_batch_size per_device_eval_batch_size"
    " per_gpu_train_batch_size per_gpu_eval_batch_size",
    "training.micro_batch_size": "gradient_accumulation_steps auto_find_batch_size",
    "training.learning_rate": "learning_rate",
    "training.warmup": "warmup_steps warmup_ratio",
    "training.weight_decay": "weight_decay",
    "training.max_grad_norm": "max_grad_norm",
    "training.schedule": "lr_scheduler_type lr_scheduler_kwargs",
    "training.optimizer": "optim optim_args optim_target_modules adafactor",
    "training.precision": "bf16 fp16 bf16_full_eval fp16_full_eval half_precision_backend tf32",
    "training.deterministic": "full_determinism",
    "training.metric": "metric_for_best_model greater_is_better load_best_model_at_end",
    "training.keep_checkpoints": "save_total_limit",
    "loss": "label_smoothing_factor",
    "scaling.use_gpu": "use_cpu no_cuda",
    "scaling.workers": "local_rank ddp_backend deepspeed fsdp fsdp_config accelerator_config"
    " parallelism_config",
    "tracking": "report_to project trackio_space_id",
    "run.name": "run_name",
    "run.resume": "resume_from_checkpoint",
}
_REASONS = {
    "Every epoch ends with an evaluation and a checkpoint": "eval_strategy evaluation_strategy"
    " eval_steps eval_delay eval_on_start save_strategy save_steps do_train do_eval do_predict",
    "Batches already contain rows of similar length": "group_by_length length_column_name"
    " train_sampling_strategy",
    "The data loader is clftask's own": "dataloader_drop_last dataloader_pin_memory"
    " dataloader_prefetch_factor dataloader_persistent_workers dataloader_in_order"
    " dataloader_multiprocessing_context remove_unused_columns",
    "Use logging_steps": "logging_strategy logging_first_step",
    "Use gradient_checkpointing": "activation_checkpointing activation_checkpointing_kwargs"
    " gradient_checkpointing_kwargs",
    "Upload the bundle when the run is finished": "push_to_hub hub_model_id hub_token"
    " hub_strategy hub_private_repo hub_always_push hub_revision",
}
# The remedy for each argument that is not supported.
INSTEAD = {
    **{name: f"Use {field}." for field, names in _REPLACEMENTS.items() for name in names.split()},
    **{name: f"{reason}." for reason, names in _REASONS.items() for name in names.split()},
}


class TrainerArguments(Spec):
    """Supported arguments: tests/training/test_arguments.py tests the effect of each."""

    INSTEAD: ClassVar[Mapping[str, str]] = INSTEAD

    adam_beta1: _Share | None = None
    adam_beta2: _Share | None = None
    adam_epsilon: float | None = Field(None, gt=0, lt=1)
    dataloader_num_workers: int | None = Field(None, ge=0, le=64)
    gradient_checkpointing: bool | None = None
    logging_steps: int | None = Field(None, ge=1)

    @model_serializer(mode="wrap")
    def _given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}
