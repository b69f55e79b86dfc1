"""From transformers' Trainer to clftask: what to use in place of arguments of other tools.

`COUNTERPARTS` is also the table in `docs/job-files.md`; messages about unknown fields use all.
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


COUNTERPARTS = (
    Counterpart("model_name_or_path model_name pretrained_model_name_or_path", "model.base"),
    Counterpart("max_seq_length max_len max_input_length", "model.max_length"),
    Counterpart(
        "tokenizer tokenizer_name use_fast_tokenizer processing_class",
        "model.base",
        "The tokenizer is that of the base.",
    ),
    Counterpart(
        "config_name cache_dir model_revision use_auth_token token",
        "model.base",
        "Name a local folder for a certain version; credentials come from the environment.",
    ),
    Counterpart(
        "trust_remote_code",
        "model.base",
        "Remote code is never executed: use a model that transformers supports.",
    ),
    Counterpart(
        "ignore_mismatched_sizes", "model.head", "The head is created for the labels of the data."
    ),
    Counterpart(
        "num_labels id2label label2id label_list label_names",
        "data.labels",
        "Labels come from the data; data.labels.names fixes them and their order.",
    ),
    Counterpart("problem_type", "task", "It is multiclass or multilabel."),
    Counterpart(
        "train_file train_dataset dataset dataset_name data_files task_name",
        "data.train",
        "A dataset of the hub is hub:owner/name.",
    ),
    Counterpart(
        "validation_file eval_file eval_dataset valid_file validation_dataset",
        "data.validation",
        "Without it, data.split takes rows from data.train.",
    ),
    Counterpart(
        "test_file test_dataset", "data.test", "Without it, data.split takes rows from data.train."
    ),
    Counterpart("dataset_config_name", "data.train", "Write hub:owner/name@config."),
    Counterpart(
        "validation_split validation_split_percentage test_size eval_size",
        "data.split",
        "Its validation and test are shares of the rows.",
    ),
    Counterpart(
        "text_column text_columns text_column_name text_column_names",
        "data.text",
        "One column, or a list of columns that are joined.",
    ),
    Counterpart("text_column_delimiter", "data.separator"),
    Counterpart(
        "label_column label_columns label_column_name label_column_names",
        "data.labels",
        "For example {kind: class, column: label}.",
    ),
    Counterpart(
        "pad_to_max_length padding truncation data_collator",
        "",
        "Batches are padded to their longest text; model.long_text decides what is read of"
        " longer texts.",
    ),
    Counterpart(
        "max_train_samples max_eval_samples max_predict_samples",
        "data.train",
        "Name a smaller table.",
    ),
    Counterpart(
        "output_dir logging_dir overwrite_output_dir",
        "run.storage",
        "run.name is the folder within.",
    ),
    Counterpart("run_name", "run.name"),
    Counterpart("resume_from_checkpoint", "run.resume"),
    Counterpart(
        "ignore_data_skip restore_callback_states_from_checkpoint save_only_model",
        "run.resume",
        "A resumed run continues with the step after its last checkpoint.",
    ),
    Counterpart("seed data_seed", "seed"),
    Counterpart(
        "num_train_epochs max_steps num_epochs",
        "training.epochs",
        "It is the maximum; training.early_stopping may end earlier.",
    ),
    Counterpart(
        "per_device_train_batch_size per_device_batch_size train_batch_size"
        " per_gpu_train_batch_size",
        "training.batch_size",
        "It is global: rows per optimiser step over all workers.",
    ),
    Counterpart(
        "per_device_eval_batch_size eval_batch_size per_gpu_eval_batch_size"
        " eval_accumulation_steps eval_use_gather_object",
        "training.batch_size",
        "Evaluation chooses its own batches.",
    ),
    Counterpart(
        "gradient_accumulation_steps auto_find_batch_size",
        "training.micro_batch_size",
        "It is the rows per forward pass; accumulation follows.",
    ),
    Counterpart(
        "average_tokens_across_devices",
        "",
        "Each row has the same weight, on any number of workers.",
    ),
    Counterpart(
        "learning_rate lr", "training.learning_rate", "New layers have training.head_learning_rate."
    ),
    Counterpart(
        "warmup_ratio warmup_steps num_warmup_steps",
        "training.warmup",
        "It is a share of the steps.",
    ),
    Counterpart(
        "lr_scheduler_type lr_scheduler_kwargs lr_scheduler scheduler",
        "training.schedule",
        "It is linear, cosine or constant.",
    ),
    Counterpart(
        "optim optim_args optim_target_modules adafactor optimizers",
        "training.optimizer",
        "It is adamw, sgd or adafactor.",
    ),
    Counterpart("weight_decay", "training.weight_decay"),
    Counterpart("max_grad_norm", "training.max_grad_norm"),
    Counterpart(
        "fp16 bf16 fp16_full_eval bf16_full_eval half_precision_backend tf32 fp16_opt_level"
        " fp16_backend mixed_precision torch_dtype dtype",
        "training.precision",
        "It is auto, fp32, bf16 or fp16.",
    ),
    Counterpart("full_determinism", "training.deterministic"),
    Counterpart(
        "metric_for_best_model greater_is_better load_best_model_at_end",
        "training.metric",
        "The best checkpoint is always loaded at the end; the direction follows from the metric.",
    ),
    Counterpart(
        "compute_metrics include_for_metrics eval_do_concat_batches"
        " include_inputs_for_metrics batch_eval_metrics prediction_loss_only",
        "training.metric",
        "All metrics are computed at the end.",
    ),
    Counterpart(
        "early_stopping_patience callbacks EarlyStoppingCallback",
        "training.early_stopping",
        "For example {patience: 3}; null turns it off.",
    ),
    Counterpart("early_stopping_threshold", "training.early_stopping", "Any improvement counts."),
    Counterpart("save_total_limit", "training.keep_checkpoints"),
    Counterpart(
        "eval_strategy evaluation_strategy eval_steps eval_delay eval_on_start save_strategy"
        " save_steps save_on_each_node save_safetensors enable_jit_checkpoint do_train do_eval"
        " do_predict evaluate_during_training",
        "",
        "Every epoch ends with an evaluation and a checkpoint.",
    ),
    Counterpart(
        "group_by_length length_column_name train_sampling_strategy",
        "",
        "Batches already contain rows of similar length.",
    ),
    Counterpart(
        "dataloader_drop_last dataloader_pin_memory dataloader_prefetch_factor"
        " dataloader_persistent_workers persistent_workers dataloader_in_order"
        " dataloader_multiprocessing_context remove_unused_columns skip_memory_metrics",
        "",
        "The data loader is clftask's own. training.hf.dataloader_num_workers sets its processes.",
    ),
    Counterpart(
        "logging_strategy logging_first_step logging_nan_inf_filter",
        "training.hf",
        "Use its logging_steps.",
    ),
    Counterpart(
        "log_level log_level_replica log_on_each_node disable_tqdm"
        " include_num_input_tokens_seen include_tokens_per_second",
        "",
        "Progress and speed are always shown; CLFTASK_LOG=json writes JSON lines.",
    ),
    Counterpart(
        "activation_checkpointing activation_checkpointing_kwargs"
        " gradient_checkpointing_kwargs use_cache",
        "training.hf",
        "Use its gradient_checkpointing.",
    ),
    Counterpart(
        "label_smoothing_factor", "loss", "For example {kind: cross_entropy, label_smoothing: 0.1}."
    ),
    Counterpart(
        "class_weights class_weight pos_weight compute_loss_func",
        "loss",
        "For example {kind: auto, class_weights: balanced}.",
    ),
    Counterpart("threshold", "decision.threshold"),
    Counterpart(
        "neftune_noise_alpha liger_kernel_config use_liger_kernel torch_compile"
        " torch_compile_backend torch_compile_mode torch_empty_cache_steps jit_mode_eval"
        " use_ipex debug past_index",
        "",
        "It is not supported: remove it.",
    ),
    Counterpart("use_cpu no_cuda use_mps_device", "scaling.use_gpu"),
    Counterpart(
        "local_rank ddp_backend ddp_find_unused_parameters ddp_bucket_cap_mb"
        " ddp_broadcast_buffers ddp_static_graph ddp_timeout deepspeed fsdp fsdp_config"
        " accelerator_config parallelism_config sharded_ddp tpu_num_cores nproc_per_node"
        " num_processes",
        "scaling.workers",
        "Ray starts the workers.",
    ),
    Counterpart(
        "report_to project trackio_space_id trackio_bucket_id trackio_static_space_id",
        "tracking",
        "For example [tensorboard].",
    ),
    Counterpart(
        "push_to_hub hub_model_id hub_token hub_strategy hub_private_repo hub_always_push"
        " hub_revision push_to_hub_model_id push_to_hub_organization push_to_hub_token",
        "",
        "Upload the bundle when the run is finished.",
    ),
)

_OF_RAY_TUNE = (
    Counterpart("num_samples num_trials n_trials max_trials", "trials"),
    Counterpart("param_space search_space hp_space parameters hyperparameters", "space"),
    Counterpart("max_concurrent_trials max_concurrent n_jobs", "concurrency"),
    Counterpart("time_budget_s timeout", "time_budget", "For example 2h."),
    Counterpart("mode direction", "metric", "The direction follows from the metric."),
    Counterpart("search_alg sampler", "searcher"),
    Counterpart("pruner", "scheduler"),
)
_OF_SCORING = (
    Counterpart("model model_name_or_path model_path checkpoint", "bundle"),
    Counterpart("data dataset input_path input_file test_file texts table", "input.path"),
    Counterpart("text_column text_column_name text_column_names", "input.text"),
    Counterpart("id_column", "input.id"),
    Counterpart("output_dir output_path output_file predictions_file", "output.path"),
    Counterpart(
        "batch_size per_device_eval_batch_size eval_batch_size",
        "",
        "The batches follow from the lengths of the texts: remove it.",
    ),
    Counterpart("top_k", "output.layout", "For example {kind: top_k, k: 5}."),
    Counterpart(
        "threshold thresholds", "bundle", "The decision is in the bundle; clftask decide refits it."
    ),
    Counterpart(
        "max_length max_seq_length truncation padding",
        "bundle",
        "The bundle has the length and the long-text policy.",
    ),
    Counterpart(
        "num_workers workers device", "scaling.workers", "scaling.use_gpu selects the device."
    ),
    Counterpart("bf16 fp16 torch_dtype dtype", "precision", "It is auto, fp32, bf16 or fp16."),
)


def _by_name(*rows: Counterpart) -> dict[str, str]:
    return {name: row.remedy for row in rows for name in row.names.split()}


# The remedy for each argument, in a training job, a search and a scoring job.
INSTEAD = _by_name(*COUNTERPARTS)
INSTEAD_IN_SEARCH = INSTEAD | _by_name(*_OF_RAY_TUNE)
INSTEAD_IN_SCORING = _by_name(*_OF_SCORING)
