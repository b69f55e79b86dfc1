"""Bundles of an adapter: they hold the adapter and the head, and name the base.

After `clftask.register()`, `AutoModelForSequenceClassification.from_pretrained` opens them
without remote code.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig
from transformers.utils import cached_file

from clftask.config.sections import ModelSpec
from clftask.errors import ClftaskError, DataError, Problem
from clftask.io import filesystems, storage
from clftask.io.tempdirs import temporary_folder
from clftask.messages import first_line
from clftask.models.file_checks import ADAPTER
from clftask.models.loading import find_base, import_transformers, quiet_loading, with_head
from clftask.models.weights import Weights

_REMEDY = "Put the base there again, or train with model.adapt.merge: true."


class AdapterClassifierConfig(PretrainedConfig):  # type: ignore[misc]
    """The settings of a classifier whose weights lie in part in its base.

    Args:
        spec: The job's model section as plain data.
        classifier: The configuration of the whole classifier as plain data.
        base_sha256: Of the base's weights.
    """

    model_type = "clftask_adapter"

    def __init__(
        self,
        spec: dict[str, Any] | None = None,
        classifier: dict[str, Any] | None = None,
        base_sha256: str = "",
        **kwargs: Any,
    ) -> None:
        self.spec, self.classifier = spec or {}, classifier or {}
        self.base_sha256 = base_sha256
        super().__init__(**kwargs)


class AdapterClassifier:
    """Opens a bundle of an adapter; the result is a classifier of the base's architecture."""

    config_class = AdapterClassifierConfig

    @classmethod
    def from_pretrained(
        cls,
        folder: str,
        *_: Any,
        config: AdapterClassifierConfig,
        dtype: Any = None,
        output_loading_info: bool = False,
        **__: Any,
    ) -> Any:
        """Return the classifier, its adapter beside the base's weights; see transformers.

        Raises:
            DataError: peft or the base is missing, or the adapter was trained on another base.
        """
        with temporary_folder() as scratch, quiet_loading():
            model = _opened(folder, config, scratch)
        model = model.eval().to(dtype if isinstance(dtype, torch.dtype) else torch.float32)
        return (model, {"missing_keys": []}) if output_loading_info else model


def register() -> None:
    """Register the classes with transformers; idempotent."""
    AutoConfig.register(AdapterClassifierConfig.model_type, AdapterClassifierConfig, exist_ok=True)
    AutoModelForSequenceClassification.register(
        AdapterClassifierConfig, AdapterClassifier, exist_ok=True
    )


def save(folder: Path, model: Any, spec: ModelSpec) -> None:
    """Write the adapter, the head and the configuration of a model.

    Args:
        folder: A local folder.
        model: The model with its adapter.
        spec: The job's model section.
    """
    config, weights = model.config, Weights(model, keeps_base=True)
    AdapterClassifierConfig(
        spec=spec.dump(),
        classifier={**config.to_diff_dict(), "model_type": config.model_type},
        base_sha256=weights.base_sha256,
        id2label=config.id2label,
        label2id=config.label2id,
        problem_type=config.problem_type,
    ).save_pretrained(folder)
    weights.save(folder / ADAPTER)


def check(spec: ModelSpec, path: str) -> None:
    """Check that peft is installed and the base of an adapter is there, without opening them.

    Args:
        spec: The job's model section.
        path: The bundle.

    Raises:
        DataError: One of them is missing.
    """
    _check_package(spec, path)
    if filesystems.is_url(spec.base) and not spec.base.startswith("pkg://"):
        if not storage.exists(storage.join(spec.base, "config.json")):
            raise _refuse(path, f"its base {spec.base} is missing", _REMEDY)
        return
    _base_folder(spec, path, "")


def _check_package(spec: ModelSpec, path: str) -> None:
    found = spec.adapt.package
    if found is not None and importlib.util.find_spec(found[1]) is None:
        allowed = f"contains an adapter: it needs the package {found[1]}, which is not installed"
        raise _refuse(path, allowed, f"pip install 'clftask[{found[0]}]'")


def _base_folder(spec: ModelSpec, path: str, scratch: str) -> str:
    try:
        return find_base(spec.base, scratch)
    except ClftaskError as error:
        reason = error.problems[0].allowed
        raise _refuse(path, f"its base {spec.base} is missing: {reason}", _REMEDY) from None


def _opened(path: str, config: AdapterClassifierConfig, scratch: str) -> Any:
    spec = ModelSpec.load(config.spec)
    _check_package(spec, path)
    base = _base_folder(spec, path, scratch)
    options = dict(config.classifier)
    classifier = import_transformers().AutoConfig.for_model(options.pop("model_type"), **options)
    try:
        model, _, _ = with_head(base, spec, classifier)
        spec.adapt.apply(model.base_model)
    except Exception as error:  # transformers raises many classes for a base that does not fit
        allowed = f"its base {spec.base} cannot be opened: {first_line(error)}"
        raise _refuse(path, allowed, _REMEDY) from None
    weights = Weights(model, keeps_base=True)
    if weights.base_sha256 != config.base_sha256:
        allowed = f"was trained on another base: the weights of {spec.base} have changed"
        raise _refuse(path, allowed, _REMEDY)
    weights.load(Path(cached_file(path, ADAPTER)))
    return model


def _refuse(path: str, allowed: str, remedy: str) -> DataError:
    return DataError(Problem("bundle", path, allowed, remedy))
