"""Arguments of transformers' Trainer that `training.hf` supports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from clftask.config.from_trainer import INSTEAD
from clftask.spec import Spec

_Share = Annotated[float, Field(ge=0, lt=1)]


class TrainerArguments(Spec):
    """Supported arguments: tests/training/test_arguments.py tests the effect of each."""

    INSTEAD: ClassVar[Mapping[str, str]] = INSTEAD

    adam_beta1: _Share | None = None
    adam_beta2: _Share | None = None
    adam_epsilon: float | None = Field(None, gt=0, lt=1)
    dataloader_num_workers: int | None = Field(None, ge=0, le=64)
    logging_steps: int | None = Field(None, ge=1)

    @model_serializer(mode="wrap")
    def _given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}
