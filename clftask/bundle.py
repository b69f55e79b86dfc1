"""The bundle: a model that plain transformers opens, and beside it all that scoring applies."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from clftask import storage
from clftask.decisions import Decision
from clftask.errors import ConfigError, DataError, Problem
from clftask.labels import LabelSpace, Task
from clftask.longtexts import KeepHead, LongText, Windows
from clftask.metrics import with_plain
from clftask.modeling import open_classifier
from clftask.scratch import scratch_folder
from clftask.spec import PlainData, Spec, fingerprint
from clftask.texts import TextRecipe
from clftask.wording import printable

SCHEMA_VERSION = 1
META = "clftask.json"
NEXT = "_next"
AGAIN = "Copy the bundle again, or train anew."
_BESIDE = {"metrics.json", "README.md", "report.html", META}  # that the fingerprint leaves out
_PACKAGES = ("clftask", "ray", "transformers", "torch", "datasets", "scikit-learn", "pyarrow")


class BundleMeta(Spec):
    """What `clftask.json` holds.

    Attributes:
        text: How text is made from columns.
        max_length: Tokens that the model takes at once.
        truncation: What is read of longer texts.
        decision: How probabilities become labels.
        job: The resolved training job.
        data: Fingerprint and report of the data.
        metrics: Headline metrics by split.
        files: SHA-256 of the weights' and the tokenizer's files.
        fingerprint: Covers files, labels, text and decision.
    """

    schema_version: int = SCHEMA_VERSION
    task: Task
    label_names: tuple[str, ...] = Field(min_length=2)
    text: TextRecipe
    max_length: int = Field(ge=4)
    truncation: LongText = KeepHead()
    decision: Decision
    job: PlainData
    data: PlainData
    versions: dict[str, str]
    metrics: dict[str, dict[str, float]]
    files: dict[Annotated[str, Field(pattern=r"^[^/]+$")], str] = {}
    fingerprint: str = ""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Refuse what would fail, or mean nothing, only when texts are scored."""
        if len(set(self.label_names)) < len(self.label_names):
            raise ValueError("label_names must be distinct")
        if not self.decision.fits(len(self.label_names)):
            raise ValueError("decision must be of as many labels as there are")
        if isinstance(self.truncation, Windows) and self.truncation.stride > self.max_length // 2:
            raise ValueError("truncation.stride must be at most half of max_length")
        return self

    @property
    def space(self) -> LabelSpace:
        """The labels."""
        return LabelSpace(self.task, self.label_names)


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
    with scratch_folder() as scratch:
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
    return storage.exists(storage.join(_newest(storage.absolute(path)), META))


def read_meta(path: str) -> BundleMeta:
    """Read a bundle's `clftask.json`.

    Raises:
        DataError: There is no bundle, or one of a newer clftask.
    """
    place = storage.join(_newest(storage.absolute(path)), META)
    if not storage.exists(place):
        remedy = "Give the folder that holds clftask.json; an interrupted run has none yet."
        below = storage.join(storage.absolute(path), "bundle")
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
    folder = _newest(storage.absolute(path))
    if storage.is_url(folder):
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


def card(meta: BundleMeta, metrics: dict[str, Any]) -> str:
    """Return the model card: data, metrics, how to use it, limits."""
    return "\n".join(
        [
            *_front_matter(meta),
            *_about(meta),
            *_use(meta),
            *_figures(meta, metrics.get("intervals", {})),
            *_labels(metrics),
            *_limits(meta),
        ]
    )


def _front_matter(meta: BundleMeta) -> list[str]:
    return ["---", "library_name: transformers", "pipeline_tag: text-classification",
            f"base_model: {meta.job['model']['base']}", "---", ""]  # fmt: skip


def _about(meta: BundleMeta) -> list[str]:
    rows = ", ".join(f"{n:,} {split}" for split, n in meta.data["report"]["rows"].items())
    columns = ", ".join(meta.text.columns)
    return [
        f"# {meta.task.capitalize()} classifier with {len(meta.label_names)} labels",
        "",
        f"Fine-tuned from `{meta.job['model']['base']}` with clftask.",
        "",
        f"- Text: {columns}; {meta.truncation.words(meta.max_length)}.",
        f"- Rows: {rows}.",
        f"- Data: `{meta.job['data']['train']}`, fingerprint `{meta.data['fingerprint']}`.",
        f"- Bundle fingerprint: `{meta.fingerprint}`.",
        "",
    ]


def _use(meta: BundleMeta) -> list[str]:
    own_head = meta.job["model"]["head"]["kind"] == "mlp"
    function = "sigmoid" if meta.task == "multilabel" else "softmax"
    rule = meta.decision.rule(meta.task)
    return [
        "## Use",
        "",
        "```python",
        *(["import clftask  # registers the head"] if own_head else []),
        "from transformers import pipeline",
        "",
        'classify = pipeline("text-classification", "path/to/bundle", top_k=None)',
        f'classify("a text", truncation=True, max_length={meta.max_length})',
        "```",
        "",
        f"Probabilities are the {function} of the logits; labels given: {rule}.",
        *_calibrated(meta),
        *_long_texts(meta),
        "",
    ]


def _calibrated(meta: BundleMeta) -> list[str]:
    calibration = meta.decision.calibration
    if calibration.kind == "none":
        return []
    if calibration.is_folded and calibration.maps is None:
        where = "it stands in the last layer, so that plain transformers applies it, too"
    else:
        where = "it stands in `clftask.json`; plain transformers does not apply all of it"
    table = meta.data.get("decided_on", {}).get("table")
    rows = f"`{table}`: validation below" if table else "validation"
    return [f"Calibration: {calibration.kind}, fitted on {rows}; {where}."]


def _long_texts(meta: BundleMeta) -> list[str]:
    if meta.truncation.kind == "head":
        return []
    read = meta.truncation.words(meta.max_length)
    return [f"Of long texts clftask reads {read}; the lines above read the beginning alone."]


def _figures(meta: BundleMeta, intervals: dict[str, Any]) -> list[str]:
    splits = {split: with_plain(figures) for split, figures in meta.metrics.items()}
    columns = [name for split in splits for name in (split, "95 %", "plain")]
    lines = [
        "## Metrics",
        "",
        "Validation is measured out of fold: each row is decided by what others call for. Plain is",
        "without calibration, and at the threshold 0.5 or the most probable class. The range holds",
        "the figure with 95 % (bootstrap).",
        "",
        "| metric | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name in dict.fromkeys(name for found in splits.values() for name in found):
        cells = []
        for split, found in splits.items():
            value, plain = found.get(name, (None, None))
            cells += [_shown(value), _shown(*intervals.get(split, {}).get(name, ())), _shown(plain)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def _shown(*values: float | None) -> str:
    return " – ".join(f"{value:.4f}" for value in values if value is not None)


def _labels(metrics: dict[str, Any]) -> list[str]:
    split = "test" if "test" in metrics["per_label"] else "validation"
    rows = metrics["per_label"][split]
    columns = [n for n in ("precision", "recall", "f1", "threshold") if rows and n in rows[0]]
    titles = ["label", *columns, "rows"]
    lines = [f"## Labels ({split})", "", f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in rows:
        label = printable(str(row["label"])).replace("|", "\\|")
        figures = " | ".join(f"{row[k]:.3f}" for k in columns)
        lines.append(f"| {label} | {figures} | {row['support']} |")
    return [*lines, ""]


def _limits(meta: BundleMeta) -> list[str]:
    truncated = meta.data["report"]["tokens"].get("train", {}).get("truncated", 0.0)
    return [
        "## Limits",
        "",
        f"- Of {truncated:.1%} of the train rows a part is not read: they are longer.",
        "- The figures hold for rows like those above; other sources and times differ.",
        "- Labels with few rows have uncertain figures: see the column rows.",
        "",
    ]
