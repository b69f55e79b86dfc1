"""The bundle: a model that plain transformers opens, and beside it all that scoring applies."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

from clftask.errors import ConfigError, DataError, Problem
from clftask.io import filesystems, storage
from clftask.io.tempdirs import temporary_folder
from clftask.models.bundle_meta import SCHEMA_VERSION, BundleMeta
from clftask.models.loading import open_classifier
from clftask.models.model_card import card
from clftask.spec import fingerprint

META = "clftask.json"
NEXT = "_next"
AGAIN = "Copy the bundle again, or train anew."
_BESIDE = {"metrics.json", "README.md", "report.html", META}  # that the fingerprint leaves out
_PACKAGES = ("clftask", "ray", "transformers", "torch", "datasets", "scikit-learn", "pyarrow")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on."""
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
    """Write a bundle into an empty local folder, `clftask.json` last.

    Args:
        folder: The folder.
        model: The model, the affine part of its calibration folded into the last layer.
        tokenizer: Its tokenizer.
        meta: Its description, still without the fingerprint.
        metrics: What `metrics.json` holds.
        report: The page `report.html`, if there is one.

    Returns:
        The meta data with the bundle's fingerprint.
    """
    tokenizer.model_max_length = meta.max_length
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1))
    if report is not None:
        (folder / "report.html").write_text(report)
    meta = meta.model_copy(update={"files": _hashes(folder)})
    meta = meta.model_copy(update={"fingerprint": _fingerprint(meta)})
    (folder / "README.md").write_text(card(meta, metrics))
    (folder / META).write_text(json.dumps(meta.dump(), indent=1, ensure_ascii=False))
    return meta


def _hashes(folder: Path) -> dict[str, str]:
    names = sorted(p.name for p in folder.iterdir() if p.is_file())
    return {name: _hash(folder / name) for name in names if name not in _BESIDE}


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _fingerprint(meta: BundleMeta) -> str:
    """Hash all that scores depend on."""
    recipe = {
        k: meta.dump()[k]
        for k in ("task", "label_names", "text", "max_length", "truncation", "decision")
    }
    return fingerprint({"files": meta.files, "recipe": recipe})


def publish(folder: Path, path: str) -> None:
    """Copy a bundle into storage; whatever is cut short, the old or the new one is whole.

    `clftask.json` comes last: without it there is no bundle. In place of another the new one is
    first laid beside it, whole: if it is there, readers take it.
    """
    beside = storage.join(path, NEXT)
    meta = (folder / META).read_bytes()
    (folder / META).unlink()
    if _newest(path) == beside:
        _settle(beside, path)
    if storage.exists(storage.join(path, META)):
        _forget(beside)
        _copy(folder, meta, beside)
    _copy(folder, meta, path)
    _forget(beside)


def _settle(beside: str, path: str) -> None:
    """Finish a copying that was cut short: until then the only whole bundle is the one beside."""
    with temporary_folder() as scratch:
        storage.download(beside, scratch)
        meta = Path(scratch, META).read_bytes()
        Path(scratch, META).unlink()
        _copy(Path(scratch), meta, path)


def _copy(folder: Path, meta: bytes, path: str) -> None:
    storage.upload(str(folder), path)
    storage.put(storage.join(path, META), meta)


def _forget(beside: str) -> None:
    storage.delete(storage.join(beside, META))
    storage.delete(beside)


def _newest(path: str) -> str:
    """Return where a bundle's files are: beside its place if their copying was cut short."""
    beside = storage.join(path, NEXT)
    return beside if storage.exists(storage.join(beside, META)) else path


def is_there(path: str) -> bool:
    """Tell whether a bundle is at a path."""
    return storage.exists(storage.join(_newest(filesystems.absolute(path)), META))


def read_meta(path: str) -> BundleMeta:
    """Read a bundle's `clftask.json`.

    Raises:
        DataError: There is no bundle, or one of a newer clftask.
    """
    place = storage.join(_newest(filesystems.absolute(path)), META)
    if not storage.exists(place):
        remedy = "Give the folder that holds clftask.json; an interrupted run has none yet."
        below = storage.join(filesystems.absolute(path), "bundle")
        if storage.exists(storage.join(below, META)):
            remedy = f"That is a run; give its bundle: {below}"
        raise DataError(Problem("bundle", path, "is no bundle", remedy))
    content = storage.read_json(place, AGAIN)
    version = content.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise DataError(Problem("bundle", version, "is of a newer clftask", "Upgrade clftask."))
    try:
        return BundleMeta.load(content)
    except ConfigError as error:
        first = error.problems[0]
        raise DataError(
            Problem(place, f"{first.path}: {first.allowed}", "is damaged", AGAIN)
        ) from None


def fetch(path: str, scratch: str) -> tuple[str, BundleMeta]:
    """Bring a bundle onto this machine and check that it is whole.

    Args:
        path: A local folder, or a URL that is copied into `scratch`.
        scratch: An empty local folder.

    Returns:
        The local folder, and what stands in its `clftask.json`.

    Raises:
        DataError: There is no bundle, or its files are not those that were written.
    """
    meta = read_meta(path)
    folder = _newest(filesystems.absolute(path))
    if filesystems.is_url(folder):
        storage.download(folder, scratch)
        folder = scratch
    if _fingerprint(meta) != meta.fingerprint:
        allowed = "was changed: what clftask.json says does not fit its fingerprint"
        raise DataError(Problem("bundle", path, allowed, AGAIN))
    for name, digest in meta.files.items():
        if not Path(folder, name).is_file() or _hash(Path(folder, name)) != digest:
            allowed = f"was changed, or copied in part: {name} is not what was written"
            raise DataError(Problem("bundle", path, allowed, AGAIN))
    return folder, meta


def open_model(folder: str, meta: BundleMeta) -> tuple[Any, Any]:
    """Open the model and the tokenizer of a local bundle, in fp32, without remote code.

    Raises:
        DataError: They cannot be opened, or are not what `clftask.json` describes.
    """
    return open_classifier(folder, len(meta.label_names), meta.max_length)


# ------------------------------------------------------------------ model card
