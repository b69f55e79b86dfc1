"""Checkpoints of a Trainer: which are saved, and what is in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import Trainer

from clftask.config.train import TrainJob
from clftask.io.tempdirs import translate_write_errors
from clftask.models.weights import Weights
from clftask.training.collectives import broadcast_from_first
from clftask.training.validation import evaluations_without_gain

WEIGHTS = "model.safetensors"


class CheckpointedTrainer(Trainer):  # type: ignore[misc]
    """A Trainer that saves what a resumed run needs, and no more.

    Attributes:
        job: The training job.
        weights: The model's weights, as files hold them.
        is_uploading: Tells whether a checkpoint is being uploaded.
    """

    job: TrainJob
    weights: Weights
    is_uploading: Callable[[], bool]
    _parameter_groups: Callable[[], list[dict[str, Any]]]
    model: Any
    optimizer: Any
    lr_scheduler: Any

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the weights; those of a base that stays as it is are left out."""
        if self.args.should_save:
            self.weights.save(self._folder(output_dir) / WEIGHTS)

    def _folder(self, output_dir: str | None) -> Path:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint in the temporary folder.

        Raises:
            StorageError: Its disk is full, or cannot be written.
        """
        # Only the first worker uploads; saving is a collective of all.
        if not broadcast_from_first(self._must_save() or not self.is_uploading()):
            return
        with translate_write_errors(self.args.output_dir):
            super()._save_checkpoint(model, trial)

    def _must_save(self) -> bool:
        """Tell whether a checkpoint is needed although it would wait for the previous one."""
        step, is_epoch = self.state.global_step, float(self.state.epoch or 0).is_integer()
        stopping = self.job.training.early_stopping
        is_out = stopping and evaluations_without_gain(self.args, self.state) >= stopping.patience
        is_best_or_last = step in (self.state.max_steps, self.state.best_global_step)
        return bool(not is_epoch or is_best_or_last or is_out)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Save nothing after the last step: a run that resumes there only loads the weights."""
        if self.state.global_step < self.state.max_steps:
            self._save_states(output_dir)

    def _save_states(self, folder: str) -> None:
        super()._save_optimizer_and_scheduler(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load the weights; missing or mismatched ones raise an error."""
        self.weights.load(Path(resume_from_checkpoint, WEIGHTS))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load the optimiser's state, but take the hyperparameters from the job.

        Trainer restores the learning rates of the checkpoint. In PBT, it may be another trial's
        and would undo the mutation.
        """
        own_kernels = [_kernels(group) for group in self.optimizer.param_groups]
        self._load_states(checkpoint)
        for group, kernels in zip(self.optimizer.param_groups, own_kernels, strict=True):
            group.update(kernels)  # sharded weights lack some that a checkpoint may name
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

    def _load_states(self, folder: str | None) -> None:
        super()._load_optimizer_and_scheduler(folder)

    def _save_rng_state(self, output_dir: str) -> None:
        """Save nothing: `StepSeed` derives the random state from the step."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Load nothing, as nothing is saved."""


def _kernels(group: dict[str, Any]) -> dict[str, Any]:
    """Return how an optimiser's group computes."""
    return {name: group[name] for name in ("fused", "foreach", "capturable") if name in group}
