"""The weights of a classifier in a safetensors file: all, or only those that its base lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


def save_weights(model: Any, file: Path, only_own: bool) -> None:
    """Write the weights under the names of the model's parameters; loading is strict."""
    from safetensors.torch import save_file, save_model

    if only_own:
        save_file({n: p.detach().contiguous() for n, p in own_weights(model).items()}, file)
    else:
        save_model(model, str(file))


def load_weights(model: Any, file: Path, only_own: bool) -> None:
    """Read the weights; missing, further or mismatched ones raise an error."""
    from safetensors.torch import load_file, load_model

    if not only_own:
        load_model(model, file, strict=True)
        return
    saved, wanted = load_file(file), own_weights(model)
    wrong = sorted(saved.keys() ^ wanted.keys())
    if wrong:
        raise RuntimeError(f"{file.name} does not fit the adapter and the head: {wrong[:3]}")
    model.load_state_dict(saved, strict=False)  # raises for other shapes
