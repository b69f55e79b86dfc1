"""Checks a model's files before transformers opens them: complete, safetensors, no code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clftask.errors import ClftaskError

Refuse = Callable[[str, str], ClftaskError]
_AGAIN = "Download the model again."
_TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "spm.model",
)
# Their tokenizers read characters or bytes, and have no vocabulary.
_OF_CHARACTERS = {"CanineTokenizer", "PerceiverTokenizer", "ByT5Tokenizer"}
ADAPTER = "adapter.safetensors"  # the weights of a bundle that holds an adapter
# Some models share weights among layers (ALBERT), so they have fewer tensors than layers.
MAX_LAYERS_A_TENSOR = 10


def check_files(folder: Path, refuse: Refuse, is_bundle: bool = False) -> dict[str, Any]:
    """Check a local model's files; return its configuration.

    Args:
        folder: The folder.
        refuse: Returns the error to raise for a problem and its remedy.
        is_bundle: Whether it may hold an adapter whose weights lie in another folder.
    """
    is_adapter = (folder / ADAPTER).exists()
    if is_adapter and not is_bundle:
        remedy = "Train it with model.adapt.merge: true."
        raise refuse("contains an adapter without its base", remedy)
    if (folder / "adapter_config.json").exists():
        remedy = "Merge it into its model (peft: merge_and_unload), and save model and tokenizer."
        raise refuse("contains an adapter", remedy)
    if not (folder / "config.json").is_file():
        raise refuse("contains no config.json", _place(folder))
    config = _read(folder / "config.json", refuse)
    if _needs_code(config):
        remedy = "Use a model that transformers supports."
        raise refuse("needs remote code, which clftask never runs", remedy)
    files = [ADAPTER] if is_adapter else _weights(folder, refuse)
    num_tensors = sum(_check_weights(folder / name, refuse) for name in files)
    if not is_adapter and _most_layers(config) > MAX_LAYERS_A_TENSOR * num_tensors:
        raise refuse("config.json has more layers than the weights", _AGAIN)
    has_tokens = any((folder / name).is_file() for name in _TOKENIZER_FILES)
    if not has_tokens and not _reads_characters(folder, refuse):
        remedy = "Save the tokenizer there: tokenizer.save_pretrained(folder)."
        raise refuse("contains no tokenizer files", remedy)
    return config


def _reads_characters(folder: Path, refuse: Refuse) -> bool:
    file = folder / "tokenizer_config.json"
    return file.is_file() and _read(file, refuse).get("tokenizer_class") in _OF_CHARACTERS


def _place(folder: Path) -> str:
    """Return where a model may be instead: sentence-transformers keeps some in a subfolder."""
    below = sorted(file.parent for file in folder.glob("*/config.json"))
    models = [path for path in below if any(path.glob("*.safetensors"))]
    return f"Use {models[0]}." if models else "Is it a model folder, fully downloaded?"


def _needs_code(config: dict[str, Any]) -> bool:
    """Tell whether a model needs remote code.

    Many models still have an `auto_map` although transformers supports them now. With
    `trust_remote_code=False`, transformers then uses its own class. A kernel in an
    `_implementation` field is always downloaded.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    is_known = str(config.get("model_type")) in CONFIG_MAPPING
    kernels = [v for k, v in config.items() if "_implementation" in k and "/" in str(v)]
    return bool(kernels) or ("auto_map" in config and not is_known)


def _read(file: Path, refuse: Refuse) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError):
        raise refuse(f"{file.name} is damaged", _AGAIN) from None


def _most_layers(config: dict[str, Any]) -> int:
    """Return the highest number of layers in a configuration, including nested ones."""
    own = [v for k, v in config.items() if "layer" in k and isinstance(v, int)]
    return max([0, *own, *(_most_layers(v) for v in config.values() if isinstance(v, dict))])


def _weights(folder: Path, refuse: Refuse) -> list[str]:
    """Return the names of the weights' files."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return ["model.safetensors"]
    try:
        names = set(_read(index, refuse)["weight_map"].values())
        if all(isinstance(name, str) and "/" not in name for name in names):
            return sorted(names)
    except (KeyError, TypeError, AttributeError):
        pass
    raise refuse(f"{index.name} is damaged", _AGAIN)


def _check_weights(file: Path, refuse: Refuse) -> int:
    """Check a safetensors file's size against its header; return its number of tensors."""
    if not file.is_file():
        remedy = "Weights must be complete safetensors files."
        if any(file.parent.glob("*.bin")) or any(file.parent.glob("*.h5")):
            remedy += (
                " Open the model with transformers and save it: model.save_pretrained(folder)."
            )
        raise refuse(f"{file.name} is missing", remedy)
    with file.open("rb") as stream:
        start = stream.read(8)
        size = int.from_bytes(start, "little")
        header = stream.read(size) if len(start) == 8 and size < 10**9 else b""
    try:
        tensors = json.loads(header)
        ends = [t["data_offsets"][1] for n, t in tensors.items() if n != "__metadata__"]
        is_whole = bool(ends) and file.stat().st_size == 8 + size + max(ends)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        is_whole, ends = False, []
    if not is_whole:
        raise refuse(f"{file.name} is damaged or incomplete", _AGAIN)
    return len(ends)
