"""Classification heads, and which parameters are trained.

To add a head or an adaptation: write its class and add it to `Head` or `Adapt`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from clftask.spec import BareKind, Spec

if TYPE_CHECKING:
    from torch import nn


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


class AdaptSpec(Spec):
    """Base class: which parts of the pretrained model are trained; the head always is."""

    @abstractmethod
    def freeze(self, base: nn.Module) -> None:
        """Disable gradients in the pretrained model `base`."""


class Full(AdaptSpec):
    """All parameters are trained."""

    kind: Literal["full"] = "full"

    def freeze(self, base: nn.Module) -> None:
        """Freeze nothing."""


class HeadOnly(AdaptSpec):
    """The pretrained model is frozen."""

    kind: Literal["head_only"] = "head_only"

    def freeze(self, base: nn.Module) -> None:
        """Freeze all but the pooler, which only the classification head reads."""
        for name, parameter in base.named_parameters():
            parameter.requires_grad = name.startswith("pooler")


class FrozenEmbeddings(AdaptSpec):
    """The embeddings are frozen: in a small model they are half of the gradients to reduce."""

    kind: Literal["frozen_embeddings"] = "frozen_embeddings"

    def freeze(self, base: nn.Module) -> None:
        """Freeze the embeddings."""
        base.get_submodule(_embeddings(base)).requires_grad_(False)


class LastLayers(AdaptSpec):
    """Only the last layers are trained."""

    kind: Literal["last_layers"] = "last_layers"
    layers: int = Field(2, ge=1)

    def freeze(self, base: nn.Module) -> None:
        """Freeze the embeddings and all but the last `layers` layers."""
        stack = encoder_layers(base)
        for layer in list(stack)[: max(0, len(stack) - self.layers)]:
            layer.requires_grad_(False)
        base.get_submodule(_embeddings(base)).requires_grad_(False)


Adapt = Annotated[
    Full | HeadOnly | LastLayers | FrozenEmbeddings,
    Field(discriminator="kind"),
    BareKind(),
]


def encoder_layers(base: nn.Module) -> nn.ModuleList:
    """Return the longest ModuleList of a pretrained model: its encoder layers."""
    from torch.nn import ModuleList

    stacks = [module for module in base.modules() if isinstance(module, ModuleList)]
    return max(stacks, key=len)


def _embeddings(base: nn.Module) -> str:
    """Return the name of the submodule with the token embeddings."""
    table = base.get_input_embeddings()  # type: ignore[operator]
    name: str = next(n for n, module in base.named_modules() if module is table)
    parent = name.rpartition(".")[0]
    return parent if parent.endswith("embeddings") else name
