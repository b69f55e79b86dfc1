"""The weights of a classifier in a safetensors file: all, or only those that its base lacks."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from clftask.errors import ConfigError, Problem

_BASE = "base_sha256"  # in the metadata of a file
_ADAPTER = ".lora_"  # in the names of peft's parameters


def is_pretrained(name: str, model: Any) -> bool:
    """Tell whether a parameter belongs to the encoder; the pooler counts as part of the head."""
    prefix = model.base_model_prefix + "."
    return bool(name.startswith(prefix) and not name.startswith(prefix + "pooler"))


def own_weights(model: Any) -> dict[str, Any]:
    """Return the parameters that the base lacks: those of the head and of an adapter."""
    found = model.named_parameters()
    return {n: p for n, p in found if _ADAPTER in n or not is_pretrained(n, model)}


def keep_frozen_in_bf16(model: Any) -> None:
    """Halve the memory of the weights that are not trained."""
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()


class Weights:
    """The weights of a classifier in safetensors files, under the names of its parameters.

    Args:
        model: The classifier, before its base is rounded or sharded.
        keeps_base: Whether the pretrained weights stay as they are: files leave them out, and have
            their hash.

    Attributes:
        base_sha256: The hash of the weights that belong to the base; empty if files have them.
    """

    def __init__(self, model: Any, keeps_base: bool) -> None:
        self.model, self.keeps_base = model, keeps_base
        self.base_sha256 = _base_sha256(model) if keeps_base else ""

    @property
    def metadata(self) -> dict[str, str]:
        """What a file that leaves out the base says of it."""
        return {_BASE: self.base_sha256}

    def save(self, file: Path) -> None:
        """Write the weights."""
        from safetensors.torch import save_file, save_model

        if self.keeps_base:
            own = {n: p.detach().contiguous() for n, p in own_weights(self.model).items()}
            save_file(own, file, self.metadata)
        else:
            save_model(self.model, str(file))

    def load(self, file: Path) -> None:
        """Read the weights; missing, further or mismatched ones raise an error.

        Raises:
            ConfigError: They were trained on another base.
        """
        from safetensors.torch import load_file, load_model

        if not self.keeps_base:
            load_model(self.model, file, strict=True)
            return
        self.check_base(file)
        saved, wanted = load_file(file), own_weights(self.model)
        wrong = sorted(saved.keys() ^ wanted.keys())
        if wrong:
            raise RuntimeError(f"{file.name} does not fit the adapter and the head: {wrong[:3]}")
        self.model.load_state_dict(saved, strict=False)  # raises for other shapes

    def check_base(self, file: Path) -> None:
        """Raise a ConfigError if the weights in a file were trained on another base."""
        from safetensors import safe_open

        with safe_open(file, "pt") as opened:
            found = (opened.metadata() or {}).get(_BASE)
        if found != self.base_sha256:
            allowed = f"the weights have changed: {file.parent.name} was trained on other ones"
            remedy = "Put the base there again, or train under another run.name."
            if found is None:
                allowed = f"{file.parent.name} does not tell on which weights it was trained"
                remedy = "Train under another run.name."
            raise ConfigError(
                Problem("model.base", self.model.name_or_path or None, allowed, remedy)
            )


def _base_sha256(model: Any) -> str:
    own, digest = own_weights(model), hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if name not in own:
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().numpy())
    return digest.hexdigest()
