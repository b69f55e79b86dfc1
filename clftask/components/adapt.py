"""Ways to adapt the pretrained model: what of it is trained, and what is added to it.

To add one: write its class and add it to `Adapt`.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from clftask.errors import ConfigError, Problem
from clftask.spec import BareKind, Spec

if TYPE_CHECKING:
    from torch import nn

_NUM_SHOWN = 20  # names of layers in a message


class AdaptSpec(Spec):
    """Base class: which parts of the pretrained model are trained; the head always is.

    Attributes:
        package: The package that it needs, by the name of its pip extra.
        keeps_base: Whether the pretrained weights stay as they are: checkpoints hold only the
            weights that the base lacks.
        trains_layers: Whether layers of the pretrained model are trained.
        freezes: Whether some of the pretrained weights are not trained.
        is_apart: Whether a bundle, too, holds only those, and a reference to the base.
    """

    package: ClassVar[tuple[str, str] | None] = None
    keeps_base: ClassVar[bool] = False
    trains_layers: ClassVar[bool] = True
    freezes: ClassVar[bool] = True

    @property
    def is_apart(self) -> bool:
        return False

    @property
    def words(self) -> str:
        """The way to adapt, in words."""
        return str(getattr(self, "kind", "")).replace("_", " ")

    @abstractmethod
    def apply(self, base: nn.Module) -> None:
        """Disable gradients in the pretrained model `base`, or add weights to it."""

    def fold(self, base: nn.Module) -> None:
        """Fold weights that `apply` added into those of the pretrained model, if there are any."""


class Full(AdaptSpec):
    """All parameters are trained."""

    freezes = False
    kind: Literal["full"] = "full"

    def apply(self, base: nn.Module) -> None:
        """Freeze nothing."""


class HeadOnly(AdaptSpec):
    """The pretrained model is frozen: it runs once over all texts (`training/features.py`)."""

    keeps_base = True
    trains_layers = False
    kind: Literal["head_only"] = "head_only"

    def apply(self, base: nn.Module) -> None:
        """Freeze all but the pooler, which only the classification head reads."""
        for name, parameter in base.named_parameters():
            parameter.requires_grad = _is_of_head(name)


class FrozenEmbeddings(AdaptSpec):
    """The embeddings are frozen: in a small model they are half of the gradients to reduce."""

    kind: Literal["frozen_embeddings"] = "frozen_embeddings"

    def apply(self, base: nn.Module) -> None:
        """Freeze the embeddings."""
        base.get_submodule(_embeddings(base)).requires_grad_(False)


class LastLayers(AdaptSpec):
    """Only the last layers are trained."""

    kind: Literal["last_layers"] = "last_layers"
    layers: int = Field(2, ge=1)

    def apply(self, base: nn.Module) -> None:
        """Freeze the embeddings and all but the last `layers` layers."""
        stack = encoder_layers(base)
        for layer in list(stack)[: max(0, len(stack) - self.layers)]:
            layer.requires_grad_(False)
        base.get_submodule(_embeddings(base)).requires_grad_(False)


class Lora(AdaptSpec):
    """Low-rank updates of linear layers (Hu et al., 2021), by peft; the base is frozen.

    Attributes:
        r: Rank of the updates.
        alpha: Their scale is alpha / r.
        dropout: Dropout probability of their inputs.
        targets: The layers: `auto`, all linear layers of the pretrained model; a list of ends of
            their names; or a regular expression that matches whole names.
        merge: Whether the updates are added to the weights in the bundle. Otherwise it holds only
            the adapter, the head, and a reference to the base.
    """

    package = "lora", "peft"
    keeps_base = True

    kind: Literal["lora"] = "lora"
    r: int = Field(16, ge=1, le=4096)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)
    targets: str | Annotated[tuple[str, ...], Field(min_length=1)] = "auto"
    merge: bool = True

    @field_validator("targets")
    @classmethod
    def _expression(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(value, str):
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(
                    f"must be auto, a list, or a regular expression: {error}"
                ) from None
        return value

    @property
    def is_apart(self) -> bool:
        return not self.merge

    @property
    def words(self) -> str:
        return f"LoRA of rank {self.r}"

    def apply(self, base: nn.Module) -> None:
        """Freeze the pretrained model, but not the pooler, and add an adapter to its layers.

        Raises:
            ConfigError: The targets match no layer.
        """
        from peft import LoraConfig, inject_adapter_in_model

        config = LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self._chosen(linear_layers(base), type(base).__name__),
        )
        inject_adapter_in_model(config, base)
        for name, parameter in base.named_parameters():
            parameter.requires_grad |= _is_of_head(name)

    def fold(self, base: nn.Module) -> None:
        """Add the updates to the weights, and remove the adapter; without one, do nothing."""
        if not any(".lora_" in name for name, _ in base.named_parameters()):
            return  # a bundle in which the adapter is folded does not need peft
        from peft.tuners.tuners_utils import BaseTunerLayer

        for name, module in list(base.named_modules()):
            if isinstance(module, BaseTunerLayer):
                module.merge()
                parent, _, own = name.rpartition(".")
                setattr(base.get_submodule(parent), own, module.get_base_layer())

    def _chosen(self, names: list[str], model: str) -> list[str]:
        if not names:
            allowed = f"adapts linear layers, and {model} has none"
            raise ConfigError(Problem("model.adapt.kind", self.kind, allowed, "Use full."))
        if self.targets == "auto":
            return names
        if isinstance(self.targets, str):
            pattern = re.compile(self.targets)
            chosen = {self.targets: [name for name in names if pattern.fullmatch(name)]}
        else:
            ends = {end: f".{end}" for end in self.targets}
            chosen = {e: [n for n in names if f".{n}".endswith(dot)] for e, dot in ends.items()}
        lost = [target for target, found in chosen.items() if not found]
        if lost:
            allowed = f"matches no linear layer of {model}; its layers: {_shortened(names)}"
            remedy = "List ends of these names, or use auto."
            raise ConfigError(*(Problem("model.adapt.targets", t, allowed, remedy) for t in lost))
        found = {name for some in chosen.values() for name in some}
        return [name for name in names if name in found]


Adapt = Annotated[
    Full | HeadOnly | LastLayers | FrozenEmbeddings | Lora,
    Field(discriminator="kind"),
    BareKind(),
]


def linear_layers(base: nn.Module) -> list[str]:
    """Return the names of a pretrained model's linear layers, without its pooler."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    def is_linear(module: nn.Module) -> bool:
        if isinstance(module, nn.Conv1d):  # SqueezeBERT; peft cannot merge groups
            return module.kernel_size == (1,) and module.groups == 1
        return isinstance(module, nn.Linear | Conv1D)

    found = [name for name, module in base.named_modules() if is_linear(module)]
    return [name for name in found if not _is_of_head(name)]


def _is_of_head(name: str) -> bool:
    return name.startswith("pooler")


def _shortened(names: Iterable[str]) -> str:
    """Return names of layers, once for all numbers of the stack."""
    plain = list(dict.fromkeys(re.sub(r"\b\d+\b", "*", name) for name in names))
    return ", ".join(plain[:_NUM_SHOWN]) + (" …" if plain[_NUM_SHOWN:] else "")


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


# ------------------------------------------------------------------ layers, from the bottom up


def layer_numbers(base: nn.Module) -> dict[str, int]:
    """Return the number of the layer of each parameter, from the bottom up; embeddings have 0.

    Parameters between layers have the number of the layer below them. The decoder lies upon the
    encoder. Empty if the model has no stack of layers, or if its layers share weights (ALBERT).
    """
    from torch import nn

    layers = stacked_layers(base)
    declared = getattr(base.config.get_text_config(), "num_hidden_layers", 1)  # type: ignore[operator,union-attr]
    if not layers or len(layers) < declared:
        return {}
    tables = [name for name, module in base.named_modules() if isinstance(module, nn.Embedding)]
    numbers, below = {}, 0
    for name, _ in base.named_parameters():
        own = [i for i, names in enumerate(layers, 1) if _is_inside(name, names)]
        if own:
            below = numbers[name] = own[0]
        elif "embed" in name or _is_inside(name, tables) or (not below and "emb" in name):
            numbers[name] = 0
        else:  # some poolers and last norms are declared before the layers
            numbers[name] = below or len(layers)
    return numbers


def stacked_layers(base: nn.Module) -> list[tuple[str, ...]]:
    """Return the names of the modules of each layer, from the bottom up.

    XLM has a list of attentions, one of feed-forward parts and so on, of the same length in the
    same module: a layer consists of one of each.
    """
    from torch.nn import ModuleList

    seen: list[str] = []
    stacks: dict[tuple[str, int], list[list[str]]] = {}
    for name, module in base.named_modules():
        if isinstance(module, ModuleList) and len(module) and not _is_inside(name, seen):
            seen.append(name)
            names = _flat(name, module)
            stacks.setdefault((name.rpartition(".")[0], len(names)), []).append(names)
    return [layer for lists in stacks.values() for layer in zip(*lists, strict=True)]


def _flat(name: str, stack: nn.ModuleList) -> list[str]:
    """Return the names of a list's modules; Funnel has lists of layers in a list of blocks."""
    from torch.nn import ModuleList

    found = []
    for i, module in enumerate(stack):
        own = f"{name}.{i}"
        found += _flat(own, module) if isinstance(module, ModuleList) else [own]
    return found


def _is_inside(name: str, modules: Iterable[str]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)
