"""Classification heads.

To add one: write its class and add it to `Head`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from clftask.spec import BareKind, Spec


class HeadSpec(Spec):
    """Base class of the heads.

    Attributes:
        bias: Initial bias of the output layer. `prior`: the log odds of each label in train,
            so that the first epochs are not spent on learning label frequencies. `zero`: 0.
    """

    bias: Literal["prior", "zero"] = "prior"


class LinearHead(HeadSpec):
    """The classification head of the model's own architecture in transformers."""

    kind: Literal["linear"] = "linear"


class MlpHead(HeadSpec):
    """Mean pooling, one hidden layer, output layer: a model class of clftask."""

    kind: Literal["mlp"] = "mlp"
    hidden: int = Field(512, ge=1, le=65536)
    dropout: float = Field(0.1, ge=0, lt=1)


Head = Annotated[LinearHead | MlpHead, Field(discriminator="kind"), BareKind()]
