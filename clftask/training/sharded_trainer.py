"""A trainer whose model is cut among the workers by FSDP2.

All workers exchange weights in each forward and backward pass. So they run equally many, and a
pass that ran out of memory is repeated only if it did so on all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from clftask.models.memory import unless_out_of_memory
from clftask.training import sharding
from clftask.training.checkpointed_trainer import WEIGHTS
from clftask.training.collectives import highest, worked_everywhere
from clftask.training.trainer import ClassifierTrainer

OPTIMIZER, SCHEDULER = "optimizer.pt", "scheduler.pt"  # Trainer's own names


class ShardedTrainer(ClassifierTrainer):
    """A `ClassifierTrainer` for a model that `sharding.shard` has cut."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Trainer then prepares the model's precision, but wraps it neither into DDP nor FSDP.
        self.is_distributed_loading_by_transformers = True
        self.compiling.leave_out("the layers are sharded")

    def _move_model_to_device(self, model: Any, device: Any) -> None:
        """Do nothing: the model is on its device."""

    # -------------------------------------------------------------- training

    def _fits(self, micro: dict[str, Any]) -> bool:
        return self._is_done(super()._fits(micro))

    def _num_states(self) -> int:
        trained = (p for p in self.model.parameters() if p.requires_grad)
        return sharding.num_own(trained) * self.job.training.optimizer.states_per_weight

    def _step(self, model: Any, parts: list[dict[str, Any]]) -> torch.Tensor | None:
        """Return the loss of a step; one with fewer passes repeats its last, without weight."""
        last = parts[-1]
        empty = {**last, "weight": torch.zeros_like(last["weight"])}
        return super()._step(model, parts + [empty] * (highest(len(parts)) - len(parts)))

    def _pass(self, model: Any, micro: dict[str, Any], is_last: bool) -> torch.Tensor | None:
        """Run a micro batch; its gradients are cut at once, and never held as a whole."""

        def run() -> torch.Tensor:
            loss = self._weighted_loss(model, micro)
            self.accelerator.backward(loss)
            return loss.detach()

        loss = unless_out_of_memory(run)
        return loss if self._is_done(loss is not None) else None

    def _is_done(self, worked: bool) -> bool:
        if worked_everywhere(worked):
            return True
        self.model.reset_iter_state()
        return False

    # -------------------------------------------------------------- checkpoints

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        file = self._folder(output_dir) / WEIGHTS
        sharding.save_weights(self.weights, file, self.args.should_save)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        sharding.load_weights(self.weights, Path(resume_from_checkpoint, WEIGHTS))

    def _save_states(self, folder: str) -> None:
        state = sharding.whole_state(self.optimizer, self.args.should_save)
        if self.args.should_save:
            torch.save(state, Path(folder, OPTIMIZER))
            torch.save(self.lr_scheduler.state_dict(), Path(folder, SCHEDULER))

    def _load_states(self, folder: str | None) -> None:
        if folder is not None and Path(folder, OPTIMIZER).exists():
            sharding.load_state(self.optimizer, Path(folder, OPTIMIZER))
            schedule = torch.load(Path(folder, SCHEDULER), weights_only=True)
            self.lr_scheduler.load_state_dict(schedule)
