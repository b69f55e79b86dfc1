"""The bundle: a model that plain transformers opens, and the settings for scoring.

The model may also be a linear one, which only clftask opens.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

from clftask.components.decision.decision import Decision
from clftask.config.results import Shipped
from clftask.config.sections import ModelSpec
from clftask.config.tfidf import NO_LIMIT
from clftask.config.train import TrainJob
from clftask.data import training_rows
from clftask.errors import ConfigError, DataError, Problem
from clftask.io import filesystems, storage
from clftask.io.strict_json import to_json
from clftask.io.tempdirs import temporary_folder, translate_write_errors
from clftask.models.bundle_meta import SCHEMA_VERSION, BundleMeta
from clftask.models.file_checks import ADAPTER
from clftask.models.linear import LinearModel
from clftask.models.loading import open_classifier
from clftask.models.model_card import card
from clftask.spec import fingerprint

META = "clftask.json"
NEXT = "_next"
AGAIN = "Copy the bundle again, or retrain."
# Not in the fingerprint: they may be edited or deleted.
_NOT_HASHED = {"metrics.json", "README.md", "report.html", training_rows.NAME, META}
_PACKAGES = ("clftask", "ray", "transformers", "torch", "datasets", "scikit-learn", "pyarrow")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect results."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **found}


def write(
    folder: Path,
    model: Any,
    tokenizer: Any,
    meta: BundleMeta,
    metrics: dict[str, Any],
    report: str | None = None,
) -> BundleMeta:
    """Write a bundle to a local folder, empty but for the training rows; `clftask.json` last.

    Args:
        folder: The folder.
        model: The model, with the affine part of the calibration folded into the last layer. An
            adapter is folded into it, unless the job keeps it apart.
        tokenizer: The model's tokenizer; None for a linear model.
        meta: The metadata, without fingerprint.
        metrics: The content of `metrics.json`.
        report: The HTML of `report.html`, or None.

    Returns:
        The metadata with the bundle's fingerprint.

    Raises:
        StorageError: The disk of the folder is full, or cannot be written.
    """
    with translate_write_errors(str(folder)):
        return _write(folder, model, tokenizer, meta, metrics, report)


def _write(
    folder: Path,
    model: Any,
    tokenizer: Any,
    meta: BundleMeta,
    metrics: dict[str, Any],
    report: str | None,
) -> BundleMeta:
    if meta.adapt.is_apart:
        from clftask.models import adapter

        adapter.save(folder, model, ModelSpec.load(meta.job["model"]))
    else:
        meta.adapt.fold(getattr(model, "base_model", model))
        model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.model_max_length = meta.max_length
        tokenizer.save_pretrained(folder)
    (folder / "metrics.json").write_text(to_json(metrics, indent=1))
    if report is not None:
        (folder / "report.html").write_text(report)
    meta = meta.model_copy(update={"files": _hashes(folder)})
    meta = meta.model_copy(update={"fingerprint": _fingerprint(meta)})
    (folder / "README.md").write_text(card(meta, metrics))
    (folder / META).write_text(to_json(meta.dump(), indent=1, ensure_ascii=False))
    return meta


def meta_of(
    job: TrainJob,
    label_names: tuple[str, ...],
    data: dict[str, Any],
    decision: Decision,
    warnings: list[str],
    outcome: dict[str, Any],
) -> BundleMeta:
    """Return the metadata of a trained model, without fingerprint.

    Args:
        job: The resolved job.
        label_names: The labels, in order.
        data: The data's fingerprint and report.
        decision: The fitted decision.
        warnings: Warnings about decision and metrics.
        outcome: The content of `metrics.json`.
    """
    model = job.model
    limits: dict[str, Any] = {"max_length": NO_LIMIT, "model": model.TAG}
    if isinstance(model, ModelSpec):
        limits |= {"max_length": model.max_length, "truncation": model.long_text}
    return BundleMeta(
        task=job.task,
        label_names=label_names,
        text=job.data.recipe,
        **limits,
        decision=decision,
        job=job.dump(),
        data=data,
        versions=versions(),
        metrics=outcome["metrics"],
        positive=job.data.labels.positive,
        warnings=tuple(warnings),
        shipped=Shipped.of(outcome),
    )


def _hashes(folder: Path) -> dict[str, str]:
    names = sorted(p.name for p in folder.iterdir() if p.is_file())
    return {name: _hash(folder / name) for name in names if name not in _NOT_HASHED}


def _hash(file: Path) -> str:
    with file.open("rb") as content:  # weights may be larger than the memory
        return hashlib.file_digest(content, "sha256").hexdigest()


def _fingerprint(meta: BundleMeta) -> str:
    """Hash everything that affects scores."""
    fields = ["task", "label_names", "text", "max_length", "truncation", "decision"]
    fields += ["model"] if meta.is_linear else []  # older bundles have no such field
    recipe = {k: meta.dump()[k] for k in fields}
    return fingerprint({"files": meta.files, "recipe": recipe})


def publish(folder: Path, path: str) -> None:
    """Upload a bundle; after an interruption, the old or the new bundle is complete.

    `clftask.json` is written last: a folder without it is not a bundle. To replace a bundle, the
    new one is first staged in the subfolder `_next`; readers prefer it while it is complete.
    """
    staged = storage.join(path, NEXT)
    meta = (folder / META).read_bytes()
    (folder / META).unlink()
    if _newest(path) == staged:
        _finish_upload(staged, path)
    if storage.exists(storage.join(path, META)):
        _delete_staged(staged)
        _copy(folder, meta, staged)
    _copy(folder, meta, path)
    _delete_staged(staged)


def _finish_upload(staged: str, path: str) -> None:
    """Finish an interrupted replacement: only the staged bundle is complete until then."""
    with temporary_folder() as scratch:
        storage.download(staged, scratch)
        meta = Path(scratch, META).read_bytes()
        Path(scratch, META).unlink()
        _copy(Path(scratch), meta, path)


def _copy(folder: Path, meta: bytes, path: str) -> None:
    storage.upload(str(folder), path)
    storage.put(storage.join(path, META), meta)


def _delete_staged(staged: str) -> None:
    storage.delete(storage.join(staged, META))
    storage.delete(staged)


def _newest(path: str) -> str:
    """Return the folder of a bundle's files: the staged one after an interrupted upload."""
    staged = storage.join(path, NEXT)
    return staged if storage.exists(storage.join(staged, META)) else path


def is_there(path: str) -> bool:
    """Tell whether a path contains a bundle."""
    return storage.exists(storage.join(_newest(filesystems.absolute(path)), META))


def read_meta(path: str) -> BundleMeta:
    """Read a bundle's `clftask.json`.

    Raises:
        DataError: There is no bundle, or a newer clftask wrote it.
    """
    place = storage.join(_newest(filesystems.absolute(path)), META)
    if not storage.exists(place):
        remedy = "Use the folder that contains clftask.json; an interrupted run has none yet."
        below = storage.join(filesystems.absolute(path), "bundle")
        if storage.exists(storage.join(below, META)):
            remedy = f"This is a run folder; use its bundle: {below}"
        raise DataError(Problem("bundle", path, "is not a bundle", remedy))
    content = storage.read_json(place, AGAIN)
    version = content.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        allowed = "was written by a newer clftask"
        raise DataError(Problem("bundle", version, allowed, "Upgrade clftask."))
    try:
        return BundleMeta.load(content)
    except ConfigError as error:
        first = error.problems[0]
        raise DataError(
            Problem(place, f"{first.path}: {first.allowed}", "is damaged", AGAIN)
        ) from None


def fetch(path: str, scratch: str) -> tuple[str, BundleMeta]:
    """Download a bundle and verify its files.

    Args:
        path: A local folder, or a URL that is downloaded to `scratch`.
        scratch: An empty local folder.

    Returns:
        The local folder, and the content of its `clftask.json`.

    Raises:
        DataError: There is no bundle, its files were changed, or it holds an adapter whose base
            is missing.
    """
    meta = read_meta(path)
    folder = _newest(filesystems.absolute(path))
    if filesystems.is_url(folder):
        storage.download(folder, scratch)
        folder = scratch
    if _fingerprint(meta) != meta.fingerprint:
        allowed = "was changed: clftask.json does not match its fingerprint"
        raise DataError(Problem("bundle", path, allowed, AGAIN))
    for name, digest in meta.files.items():
        if not Path(folder, name).is_file() or _hash(Path(folder, name)) != digest:
            allowed = f"was changed or copied incompletely: {name} does not match its SHA-256"
            raise DataError(Problem("bundle", path, allowed, AGAIN))
    if ADAPTER in meta.files:
        from clftask.models import adapter

        adapter.check(ModelSpec.load(meta.job["model"]), path)
    return folder, meta


def open_model(folder: str, meta: BundleMeta) -> tuple[Any, Any]:
    """Open the model and the tokenizer of a local bundle, in fp32, without remote code.

    A linear model has no tokenizer. An adapter that the bundle keeps apart is beside the base's
    weights, as after training.

    Raises:
        DataError: They cannot be opened, or do not match `clftask.json`.
    """
    if meta.is_linear:
        return LinearModel.open(Path(folder), len(meta.label_names)), None
    from clftask.models import adapter

    adapter.register()
    return open_classifier(folder, len(meta.label_names), meta.max_length)


def open_folded(folder: str, meta: BundleMeta) -> tuple[Any, Any]:
    """Open a local bundle as `open_model` does, with the adapter folded into the base's weights."""
    model, tokenizer = open_model(folder, meta)
    if ADAPTER in meta.files:
        meta.adapt.fold(model.base_model)
    return model, tokenizer
