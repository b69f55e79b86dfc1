"""Learning rate schedules, all with warmup. To add one: add a member."""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Schedule(StrEnum):
    """A schedule by its name in job files.

    Attributes:
        trainer_name: `lr_scheduler_type` of transformers' TrainingArguments.
    """

    trainer_name: str

    LINEAR = "linear", "linear"
    COSINE = "cosine", "cosine"
    CONSTANT = "constant", "constant_with_warmup"

    def __new__(cls, name: str, trainer_name: str) -> Self:
        member = str.__new__(cls, name)
        member._value_, member.trainer_name = name, trainer_name
        return member
