"""Optimisers. To add one: add a member; tests/components/test_optimizers.py tests all."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

_ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon")


class Optimizer(StrEnum):
    """An optimiser by its name in job files.

    Attributes:
        trainer_name: `optim` of transformers' TrainingArguments.
        states_per_weight: State values per weight.
        is_elementwise: Whether a weight's step depends on its own gradients alone.
        arguments: The arguments of `training.hf` that only this optimiser uses.
    """

    trainer_name: str
    states_per_weight: int
    arguments: tuple[str, ...]

    # Fused: a step of MiniLM takes 25 ms instead of 95 on a CPU.
    ADAMW = "adamw", "adamw_torch_fused", 2, _ADAM
    SGD = "sgd", "sgd", 0
    ADAFACTOR = "adafactor", "adafactor", 1

    def __new__(
        cls, name: str, trainer_name: str, states: int, arguments: tuple[str, ...] = ()
    ) -> Self:
        member = str.__new__(cls, name)
        member._value_, member.trainer_name = name, trainer_name
        member.states_per_weight, member.arguments = states, arguments
        return member

    @property
    def is_elementwise(self) -> bool:
        return self is not Optimizer.ADAFACTOR

    def unused(self, names: set[str]) -> set[str]:
        """Return the names of `training.hf` arguments that only other optimisers use."""
        known = {argument for other in Optimizer for argument in other.arguments}
        return names & known - set(self.arguments)
