"""From transformers' Trainer to clftask: what to use in place of arguments of other tools.

`COUNTERPARTS` is also the table in `docs/from-trainer.md`; messages about unknown fields use all.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Counterpart:
    """What to use in place of some arguments.

    Attributes:
        names: The arguments, separated by blanks.
        field: The field of a training job; empty if there is none.
        note: What differs, in one sentence or more.
    """

    names: str
    field: str
    note: str = ""

    @property
    def remedy(self) -> str:
        """The remedy of a message."""
        return " ".join(filter(None, (f"Use {self.field}." if self.field else "", self.note)))

    @property
    def row(self) -> str:
        """The row of the table in Markdown."""
        names = ", ".join(f"`{name}`" for name in self.names.split())
        instead = ". ".join(filter(None, (f"`{self.field}`" if self.field else "", self.note)))
        return f"| {names} | {instead} |"


def _table(rows: dict[str, tuple[str, str]]) -> tuple[Counterpart, ...]:
    """Return counterparts from fields and notes by names."""
    return tuple(Counterpart(names, *about) for names, about in rows.items())


COUNTERPARTS = _table(
    {
        "model_name_or_path model_name pretrained_model_name_or_path": ("model.base", ""),
        "max_seq_length max_len max_input_length": ("model.max_length", ""),
        "tokenizer tokenizer_name use_fast_tokenizer processing_class": (
            "model.base",
            "The tokenizer is that of the base.",
        ),
        "config_name cache_dir model_revision use_auth_token token": (
            "model.base",
            "Name a local folder for a certain version; credentials come from the environment.",
        ),
        "trust_remote_code": (
            "model.base",
            "Remote code is never executed: use a model that transformers supports.",
        ),
        "ignore_mismatched_sizes": (
            "model.head",
            "The head is created for the labels of the data.",
        ),
        "num_labels id2label label2id label_list label_names": (
            "data.labels",
            "Labels come from the data; data.labels.names fixes them and their order.",
        ),
        "problem_type": ("task", "It is multiclass or multilabel."),
        "train_file train_dataset dataset dataset_name data_files task_name": (
            "data.train",
            "A dataset of the hub is hub:owner/name.",
        ),
        "validation_file eval_file eval_dataset valid_file validation_dataset": (
            "data.validation",
            "Without it, data.split takes rows from data.train.",
        ),
        "test_file test_dataset": (
            "data.test",
            "Without it, data.split takes rows from data.train.",
        ),
        "dataset_config_name": ("data.train", "Write hub:owner/name@config."),
        "validation_split validation_split_percentage test_size eval_size": (
            "data.split",
            "Its validation and test are shares of the rows.",
        ),
        "text_column text_columns text_column_name text_column_names": (
            "data.text",
            "One column, or a list of columns that are joined.",
        ),
        "text_column_delimiter": ("data.separator", ""),
        "label_column label_columns label_column_name label_column_names": (
            "data.labels",
            "For example {kind: class, column: label}.",
        ),
        "pad_to_max_length padding truncation data_collator": (
            "",
            "Batches are padded to their longest text; model.long_text decides what is read of "
            "longer texts.",
        ),
        "max_train_samples max_eval_samples max_predict_samples": (
            "data.train",
            "Name a smaller table.",
        ),
        "output_dir logging_dir overwrite_output_dir": (
            "run.storage",
            "run.name is the folder within.",
        ),
        "run_name": ("run.name", ""),
        "resume_from_checkpoint": ("run.resume", ""),
        "ignore_data_skip restore_callback_states_from_checkpoint save_only_model": (
            "run.resume",
            "A resumed run continues with the step after its last checkpoint.",
        ),
        "seed data_seed": ("seed", ""),
        "num_train_epochs max_steps num_epochs": (
            "training.epochs",
            "It is the maximum; training.early_stopping may end earlier.",
        ),
        (
            "per_device_train_batch_size per_device_batch_size train_batch_size "
            "per_gpu_train_batch_size"
        ): ("training.batch_size", "It is global: rows per optimiser step over all workers."),
        (
            "per_device_eval_batch_size eval_batch_size per_gpu_eval_batch_size "
            "eval_accumulation_steps eval_use_gather_object"
        ): ("training.batch_size", "Evaluation chooses its own batches."),
        "gradient_accumulation_steps auto_find_batch_size": (
            "training.micro_batch_size",
            "It is the rows per forward pass; accumulation follows.",
        ),
        "average_tokens_across_devices": (
            "",
            "Rows have the same weight, or that of data.weight, on any number of workers.",
        ),
        "learning_rate lr": (
            "training.learning_rate",
            "New layers have training.head_learning_rate.",
        ),
        "warmup_ratio warmup_steps num_warmup_steps": (
            "training.warmup",
            "It is a share of the steps.",
        ),
        "lr_scheduler_type lr_scheduler_kwargs lr_scheduler scheduler": (
            "training.schedule",
            "It is linear, cosine or constant.",
        ),
        "optim optim_args optim_target_modules adafactor optimizers": (
            "training.optimizer",
            "It is adamw, sgd or adafactor.",
        ),
        "weight_decay": ("training.weight_decay", ""),
        "max_grad_norm": ("training.max_grad_norm", ""),
        (
            "fp16 bf16 fp16_full_eval bf16_full_eval half_precision_backend tf32 fp16_opt_level "
            "fp16_backend mixed_precision torch_dtype dtype"
        ): ("training.precision", "It is auto, fp32, bf16 or fp16."),
        "full_determinism": ("training.deterministic", ""),
        "torch_compile": ("training.compile", "It is auto, true or false."),
        "metric_for_best_model greater_is_better load_best_model_at_end": (
            "training.metric",
            "The best checkpoint is always loaded at the end; the direction follows from the "
            "metric.",
        ),
        (
            "compute_metrics include_for_metrics eval_do_concat_batches "
            "include_inputs_for_metrics batch_eval_metrics prediction_loss_only"
        ): ("training.metric", "All metrics are computed at the end."),
        "early_stopping_patience callbacks EarlyStoppingCallback": (
            "training.early_stopping",
            "For example {patience: 3}; null turns it off.",
        ),
        "early_stopping_threshold": ("training.early_stopping", "Any improvement counts."),
        "save_total_limit": ("training.keep_checkpoints", ""),
        (
            "eval_strategy evaluation_strategy eval_steps eval_delay eval_on_start save_strategy "
            "save_steps save_on_each_node save_safetensors enable_jit_checkpoint do_train do_eval "
            "do_predict evaluate_during_training"
        ): ("", "Every epoch ends with an evaluation and a checkpoint."),
        "group_by_length length_column_name train_sampling_strategy": (
            "",
            "Batches already contain rows of similar length.",
        ),
        (
            "dataloader_drop_last dataloader_pin_memory dataloader_prefetch_factor "
            "dataloader_persistent_workers persistent_workers dataloader_in_order "
            "dataloader_multiprocessing_context remove_unused_columns skip_memory_metrics"
        ): (
            "",
            "The data loader is clftask's own. training.hf.dataloader_num_workers sets its "
            "processes.",
        ),
        "logging_strategy logging_first_step logging_nan_inf_filter": (
            "training.hf",
            "Use its logging_steps.",
        ),
        (
            "log_level log_level_replica log_on_each_node disable_tqdm "
            "include_num_input_tokens_seen include_tokens_per_second"
        ): ("", "Progress and speed are always shown; CLFTASK_LOG=json writes JSON lines."),
        (
            "gradient_checkpointing gradient_checkpointing_kwargs activation_checkpointing "
            "activation_checkpointing_kwargs use_cache"
        ): ("training.gradient_checkpointing", ""),
        "use_lora use_peft peft_config lora_config lora lora_r lora_alpha lora_dropout "
        "lora_target_modules target_modules lora_rank": (
            "model.adapt",
            "For example {kind: lora, r: 16, alpha: 32}.",
        ),
        "llrd layerwise_lr_decay layer_wise_lr_decay layerwise_learning_rate_decay "
        "layer_wise_learning_rate_decay lr_layer_decay": (
            "training.layer_decay",
            "For example 0.9.",
        ),
        "label_smoothing_factor": (
            "loss",
            "For example {kind: cross_entropy, label_smoothing: 0.1}.",
        ),
        "class_weights class_weight pos_weight compute_loss_func": (
            "loss",
            "For example {kind: auto, class_weights: balanced}.",
        ),
        "threshold": ("decision.threshold", ""),
        (
            "neftune_noise_alpha liger_kernel_config use_liger_kernel "
            "torch_compile_backend torch_compile_mode torch_empty_cache_steps jit_mode_eval "
            "use_ipex debug past_index"
        ): ("", "It is not supported: remove it."),
        "use_cpu no_cuda use_mps_device": ("scaling.use_gpu", ""),
        (
            "local_rank ddp_backend ddp_find_unused_parameters ddp_bucket_cap_mb "
            "ddp_broadcast_buffers ddp_static_graph ddp_timeout "
            "accelerator_config tpu_num_cores nproc_per_node num_processes"
        ): ("scaling.workers", "Ray starts the workers."),
        "fsdp fsdp_config sharded_ddp parallelism_config deepspeed": (
            "scaling.shard",
            "fsdp cuts the model among the workers.",
        ),
        "report_to project trackio_space_id trackio_bucket_id trackio_static_space_id": (
            "tracking",
            "For example [tensorboard].",
        ),
        (
            "push_to_hub hub_model_id hub_token hub_strategy hub_private_repo hub_always_push "
            "hub_revision push_to_hub_model_id push_to_hub_organization push_to_hub_token"
        ): ("", "Upload the bundle when the run is finished."),
    }
)
_OF_RAY_TUNE = _table(
    {
        "num_samples num_trials n_trials max_trials": ("trials", ""),
        "param_space search_space hp_space parameters hyperparameters": ("space", ""),
        "max_concurrent_trials max_concurrent n_jobs": ("concurrency", ""),
        "time_budget_s timeout": ("time_budget", "For example 2h."),
        "mode direction": ("metric", "The direction follows from the metric."),
        "search_alg sampler": ("searcher", ""),
        "pruner": ("scheduler", ""),
    }
)
_OF_SCORING = _table(
    {
        "model model_name_or_path model_path checkpoint": ("bundle", ""),
        "data dataset input_path input_file test_file texts table": ("input.path", ""),
        "text_column text_column_name text_column_names": ("input.text", ""),
        "id_column": ("input.id", ""),
        "output_dir output_path output_file predictions_file": ("output.path", ""),
        "batch_size per_device_eval_batch_size eval_batch_size": (
            "",
            "The batches follow from the lengths of the texts: remove it.",
        ),
        "top_k": ("output.layout", "For example {kind: top_k, k: 5}."),
        "threshold thresholds": (
            "bundle",
            "The decision is in the bundle; clftask decide refits it.",
        ),
        "max_length max_seq_length truncation padding": (
            "bundle",
            "The bundle has the length and the long-text policy.",
        ),
        "num_workers workers device": ("scaling.workers", "scaling.use_gpu selects the device."),
        "bf16 fp16 torch_dtype dtype": ("precision", "It is auto, fp32, bf16 or fp16."),
    }
)


def _by_name(*rows: Counterpart) -> dict[str, str]:
    return {name: row.remedy for row in rows for name in row.names.split()}


# The remedy for each argument, in a training job, a search and a scoring job.
INSTEAD = _by_name(*COUNTERPARTS)
INSTEAD_IN_SEARCH = INSTEAD | _by_name(*_OF_RAY_TUNE)
INSTEAD_IN_SCORING = _by_name(*_OF_SCORING)
