"""Heads, and which parameters are trained.

To add a head or a way to adapt: write its class and put it into `Head` or `Adapt`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from clftask.spec import BareKind, Spec

if TYPE_CHECKING:
    from torch import nn


class HeadSpec(Spec):
    """Base of the heads.

    Attributes:
        bias: `prior` starts at the log odds of each label in train, so that the first
            epochs are not spent on learning that rare labels are rare; `zero` at none.
    """

    bias: Literal["prior", "zero"] = "prior"


class LinearHead(HeadSpec):
    """The classification head of the model's own architecture in transformers."""

    kind: Literal["linear"] = "linear"


class MlpHead(HeadSpec):
    """Mean of the token states, one hidden layer, then the labels: a class of clftask's own."""

    kind: Literal["mlp"] = "mlp"
    hidden: int = Field(512, ge=1, le=65536)
    dropout: float = Field(0.1, ge=0, lt=1)


Head = Annotated[LinearHead | MlpHead, Field(discriminator="kind"), BareKind()]


class AdaptSpec(Spec):
    """Base: what of the pretrained model is trained; the head always is."""

    @abstractmethod
    def freeze(self, base: nn.Module) -> None:
        """Switch off gradients in the pretrained part `base`."""


class Full(AdaptSpec):
    """Everything is trained."""

    kind: Literal["full"] = "full"

    def freeze(self, base: nn.Module) -> None:
        """Freeze nothing."""


class HeadOnly(AdaptSpec):
    """The pretrained part stays as it is."""

    kind: Literal["head_only"] = "head_only"

    def freeze(self, base: nn.Module) -> None:
        """Freeze all but the pooler, which is part of the head where there is one."""
        for name, parameter in base.named_parameters():
            parameter.requires_grad = name.startswith("pooler")


class FrozenEmbeddings(AdaptSpec):
    """The embedding tables stay as they are: half of what workers exchange in a small model."""

    kind: Literal["frozen_embeddings"] = "frozen_embeddings"

    def freeze(self, base: nn.Module) -> None:
        """Freeze the embeddings."""
        base.get_submodule(_embeddings(base)).requires_grad_(False)


class LastLayers(AdaptSpec):
    """Only the last layers are trained."""

    kind: Literal["last_layers"] = "last_layers"
    layers: int = Field(2, ge=1)

    def freeze(self, base: nn.Module) -> None:
        """Freeze the embeddings and all layers but the last."""
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
    """Return the longest stack of layers in a pretrained model."""
    from torch.nn import ModuleList

    stacks = [module for module in base.modules() if isinstance(module, ModuleList)]
    return max(stacks, key=len)


def _embeddings(base: nn.Module) -> str:
    """Return the name of the child that holds the token embeddings."""
    table = base.get_input_embeddings()  # type: ignore[operator]
    name: str = next(n for n, module in base.named_modules() if module is table)
    parent = name.rpartition(".")[0]
    return parent if parent.endswith("embeddings") else name
