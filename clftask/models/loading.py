"""Finds and opens the pretrained model, and adds the classification head."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clftask.array_types import Array, Float32, Float64
from clftask.components.heads import MlpHead
from clftask.components.labels import LabelSpace, Task
from clftask.config.sections import ModelSpec
from clftask.errors import ClftaskError, ConfigError, DataError, Problem
from clftask.io import filesystems, storage
from clftask.io.tempdirs import temporary_folder
from clftask.models.file_checks import check_files
from clftask.models.layers import keep_layers
from clftask.models.tokenizers import load_tokenizer
from clftask.models.weights import is_pretrained

PROBLEM_TYPES: dict[Task, str] = {
    "multiclass": "single_label_classification",
    "multilabel": "multi_label_classification",
}


def import_transformers() -> Any:
    """Import transformers and register clftask's model classes."""
    import transformers

    from clftask.models.mlp import register

    register()
    return transformers


def find_base(base: str, scratch: str) -> str:
    """Return the local folder of a base model, or a hub id unchanged.

    Args:
        base: The job's `model.base`.
        scratch: A temporary folder; a model at a URL is downloaded to it.

    Raises:
        ConfigError: The package, the folder or the model at the URL is missing.
    """
    if base.startswith("pkg://"):
        return _in_package(base)
    if filesystems.is_url(base):
        folder = f"{scratch}/base"
        storage.download(base, folder)
        return folder
    if base.startswith("/") and not Path(base).is_dir():
        raise refuse_base(base, "is not a folder", "Check the path, or use a hub id.")
    return base


def _in_package(base: str) -> str:
    package, _, inner = base.removeprefix("pkg://").partition("/")
    # No dotted names: for a submodule, find_spec imports the parent package.
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places:
        raise refuse_base(base, f"the package {package} is not installed", f"pip install {package}")
    folder = Path(places[0], inner)
    if inner.startswith("/") or ".." in Path(inner).parts or not folder.is_dir():
        raise refuse_base(
            base, f"the package {package} contains no folder {inner!r}", "Check the name."
        )
    return str(folder)


def refuse_base(base: str, allowed: str, remedy: str = "") -> ConfigError:
    """Return the error that refuses a job's base."""
    return ConfigError(Problem("model.base", base, allowed, remedy))


def open_classifier(folder: str, num_labels: int, max_length: int) -> tuple[Any, Any]:
    """Open a trained model and its tokenizer, in fp32, without remote code.

    Args:
        folder: A bundle's local folder.
        num_labels: The expected number of labels.
        max_length: The required number of tokens.

    Raises:
        DataError: They cannot be opened, or do not match these numbers.
    """
    from clftask.models.trial_step import num_positions

    refuse = functools.partial(_refuse_bundle, folder)
    check_files(Path(folder), refuse, is_bundle=True)
    try:
        model, tokenizer, lost = _opened(folder)
    except ClftaskError:
        raise
    except Exception as error:  # transformers, safetensors and tokenizers raise many classes
        raise refuse(f"cannot be opened: {' '.join(str(error).split())[:300]}") from None
    limit = num_positions(model)
    if tokenizer.pad_token is None:
        raise refuse("has a tokenizer without a padding token")
    if lost:
        raise refuse(f"lacks {len(lost)} of its own weights: {min(lost)}")
    if model.config.num_labels != num_labels or (limit is not None and limit < max_length):
        raise refuse("has a model whose labels or positions do not match clftask.json")
    return model, tokenizer


def _opened(folder: str) -> tuple[Any, Any, list[str]]:
    import torch

    model, info = import_transformers().AutoModelForSequenceClassification.from_pretrained(
        folder,
        dtype=torch.float32,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )
    return model, load_tokenizer(folder, model.config, is_bundle=True), list(info["missing_keys"])


def _refuse_bundle(
    folder: str, allowed: str, remedy: str = "Copy the bundle again, or retrain."
) -> DataError:
    return DataError(Problem("bundle", folder, allowed, remedy))


def build_model(
    base: str, spec: ModelSpec, space: LabelSpace, prior: Float64
) -> tuple[Any, set[str]]:
    """Load the weights of the layers to keep, add a head, and adapt the model as `adapt` says.

    A base that is a classifier with the same labels in the same order keeps its head;
    otherwise the head's last layer is initialised again.

    Args:
        base: The result of `find_base`.
        spec: The job's model section.
        space: Label names, in the order of the logits.
        prior: (labels,) share of the train rows with each label.

    Returns:
        The model, and the names of its new parameters: none if the base's head is kept.
    """
    from clftask.models.mlp import without_layerdrop

    names = dict(enumerate(space.names))
    config = import_transformers().AutoConfig.from_pretrained(
        base,
        trust_remote_code=False,
        num_labels=len(names),
        id2label=names,
        label2id={name: i for i, name in names.items()},
        problem_type=PROBLEM_TYPES[space.task],
    )
    for name, value in without_layerdrop(config).items():
        setattr(config, name, value)
    keep_layers(config, spec.layers)
    with quiet_loading():
        model, head, absent = with_head(base, spec, config)
    _own_memory(model)
    spec.adapt.apply(model.base_model)
    if not head & absent and _is_classifier_of(space, base):
        return model, set()
    bias = log_odds(prior, space.task) if spec.head.bias == "prior" else np.zeros(len(names))
    _start_output(model, absent, bias)
    return model, head


def _own_memory(model: Any) -> None:
    """Copy weights that transformers loads as parts of one tensor: safetensors refuses these.

    NomicBert's queries, keys and values are such.
    """
    for parameter in model.parameters():
        if parameter.untyped_storage().nbytes() > parameter.nbytes:
            parameter.data = parameter.data.clone()


def _is_classifier_of(space: LabelSpace, base: str) -> bool:
    """Tell whether a base is a classifier for this task with these labels in this order."""
    own = import_transformers().AutoConfig.from_pretrained(base, trust_remote_code=False)
    # transformers treats a classifier without problem_type as single-label.
    problem_type = own.problem_type or PROBLEM_TYPES["multiclass"]
    names = dict(enumerate(space.names))
    return bool(own.id2label == names and problem_type == PROBLEM_TYPES[space.task])


def _start_output(model: Any, absent: set[str], bias: Array) -> None:
    """Set the bias of the last layer, and initialise weights that belong to other labels."""
    import torch

    layer = output_layer(model)
    name = next(name for name, module in model.named_modules() if module is layer)
    with torch.no_grad():
        if f"{name}.weight" not in absent:
            layer.weight.normal_(std=getattr(model.config, "initializer_range", 0.02))
        if layer.bias is not None:
            layer.bias.copy_(torch.from_numpy(bias))


def with_head(base: str, spec: ModelSpec, config: Any) -> tuple[Any, set[str], set[str]]:
    """Return a base with a head, the head's parameters, and the parameters that the base lacks."""
    if isinstance(spec.head, MlpHead):
        from clftask.models.mlp import build

        model, fresh, lost = build(base, spec.head, config, spec.layers)
        refuse_lost(base, lost)
        return model, fresh, fresh
    model, absent = open_base(base, config)
    head = {name for name, _ in model.named_parameters() if not is_pretrained(name, model)}
    return model, head, absent


def open_base(base: str, config: Any, **options: Any) -> tuple[Any, set[str]]:
    """Return a base with the head of its architecture, and the parameters that the base lacks."""
    import torch

    model, info = import_transformers().AutoModelForSequenceClassification.from_pretrained(
        base,
        config=config,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **options,
    )
    absent = {*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])}
    refuse_lost(base, [name for name in absent if is_pretrained(name, model)])
    return model, absent


def refuse_lost(base: str, names: list[str]) -> None:
    """Refuse a base that lacks encoder weights: transformers would initialise them randomly."""
    if names:
        shown = ", ".join(sorted(names)[:3])
        raise refuse_base(
            base, f"lacks {len(names)} of its own weights: {shown}", "Use another base."
        )


def output_layer(model: Any) -> Any:
    """Return the last linear layer, which computes the logits."""
    import torch

    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    fitting = [m for m in layers if m.out_features == model.config.num_labels]
    return fitting[-1]


def log_odds(prior: Float64, task: Task) -> Float32:
    """Return the (labels,) biases at which an untrained head predicts the prior.

    Multilabel: log p/(1−p); multiclass: log p. Shares are clipped to 1e-4 … 1−1e-4.
    """
    p = np.clip(prior, 1e-4, 1 - 1e-4)
    odds = np.log(p / (1 - p)) if task == "multilabel" else np.log(p)
    return odds.astype(np.float32)


class quiet_loading:  # noqa: N801 (a context manager)
    """Silence transformers' progress bar and its warning about a newly initialised head."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self.verbosity = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self.verbosity)


@dataclass(frozen=True)
class NumParameters:
    """Numbers of a model's parameters: all, and those in a checkpoint."""

    all: int
    saved: int


def num_parameters(spec: ModelSpec, num_labels: int) -> NumParameters:
    """Return the number of parameters of a job's model, without loading the weights."""
    import torch

    transformers = import_transformers()
    with temporary_folder() as scratch:
        base = find_base(spec.base, scratch)
        config = transformers.AutoConfig.from_pretrained(base, trust_remote_code=False)
    keep_layers(config, spec.layers)
    with torch.device("meta"):
        body = transformers.AutoModel.from_config(config)
        num_body = sum(p.numel() for p in body.parameters())
        spec.adapt.apply(body)
    width = getattr(config, "hidden_size", 0) or 0
    num_head = int(width * (width + num_labels))
    num_trained = parameter_counts(body)[1] if spec.adapt.keeps_base else num_body
    return NumParameters(num_body + num_head, num_trained + num_head)


def parameter_counts(model: Any) -> tuple[int, int]:
    """Return the number of all parameters and of the trainable ones."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, trained in sizes if trained)
