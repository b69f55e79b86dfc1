"""Hostile bundles: nothing of theirs is run, all damage is noticed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_input import CONFIG, META, bounded, edit, flipped, fuzzed, mutated, run, sealed, sound
from hypothesis import given
from hypothesis import strategies as st

import clftask
from clftask.commands.evaluate import decide_bundle
from clftask.commands.inspect import inspect
from clftask.errors import ConfigError, DataError
from clftask.models import bundle
from clftask.models.base_checks import check_base


def use(folder: Path) -> None:
    scorer = clftask.load(str(folder), precision="fp32")
    scorer.predict(["fast audio tool " * 40, "a"])


def test_a_bundle_without_a_padding_token_is_refused(tiny_bundle: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token": None}))
    sealed(folder)
    with pytest.raises(DataError, match="without a padding token"):
        use(folder)


@pytest.mark.slow
@fuzzed(60)
@given(st.data())
def test_a_mutated_bundle_is_used_or_refused(tiny_bundle: str, data: Any) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(tiny_bundle, Path(place, "bundle")))
        name = data.draw(
            st.sampled_from([bundle.META, bundle.META, "config.json", "tokenizer_config.json"])
        )
        content = data.draw(mutated([json.loads((folder / name).read_text())]))
        (folder / name).write_text(json.dumps(content))
        if isinstance(json.loads((folder / bundle.META).read_text()), dict):
            sealed(folder)
        sound(lambda: use(folder))
        sound(lambda: inspect(str(folder)))
        assert [p.name for p in Path(place).iterdir()] == ["bundle"]


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "config.json", "clftask.json"]
)
def test_a_damaged_file_of_a_bundle_is_used_or_refused(tiny_bundle: str, name: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(tiny_bundle, Path(place, "bundle")))
        whole = {file.name: file.read_bytes() for file in folder.iterdir()}

        @fuzzed(15)
        @given(flipped(whole[name][:20_000]))
        def check(damaged: bytes) -> None:
            for file, content in whole.items():
                (folder / file).write_bytes(content)
            (folder / name).write_bytes(damaged + whole[name][20_000:])
            if name != bundle.META:
                sealed(folder)
            sound(lambda: use(folder))

        check()


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(
        {"classifier.weight": _Touch(str(folder.parent / "ran"))}, folder / "pytorch_model.bin"
    )


class _Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (self.path,))


def plainly_pickled(folder: Path) -> None:
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def piped(folder: Path) -> None:
    (folder / bundle.META).unlink()
    os.mkfifo(folder / bundle.META)


def linked(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/etc/passwd")


CODE = {"AutoModelForSequenceClassification": "evil.Evil", "AutoConfig": "evil.Config"}
PLATT = {"kind": "platt", "shift": 0.0, "maps": None, "is_folded": False}
SPOILT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pickled weights": (pickled, "must be safetensors|is missing"),
    "plain weights in a pickle": (plainly_pickled, "model.safetensors is missing"),
    "code": (edit(CONFIG, auto_map=CODE, model_type="evil"), "needs remote code"),
    "a kernel": (edit(CONFIG, attn_implementation="evil/kernel"), "needs remote code"),
    "another kernel": (edit(CONFIG, _attn_implementation="evil/kernel"), "needs remote code"),
    "an adapter": (lambda f: (f / "adapter_config.json").write_text("{}"), "contains an adapter"),
    "a million layers": (edit(CONFIG, num_hidden_layers=10**6), "more layers than the weights"),
    "a layer more": (edit(CONFIG, num_hidden_layers=3), "lacks 16 of its own weights"),
    "a huge width": (edit(CONFIG, hidden_size=10**9), "cannot be opened"),
    "quantised": (edit(CONFIG, quantization_config={"quant_method": "awq"}), "cannot be opened"),
    "an unknown activation": (edit(CONFIG, hidden_act="os.system"), "cannot be opened"),
    "no model": (edit(CONFIG, model_type="none"), "cannot be opened"),
    "a link": (linked, "config.json is damaged"),
    "deep JSON": (lambda f: (f / CONFIG).write_text("[" * 100_000), "config.json is damaged"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "contains no tokenizer files"),
    "half a tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), "cannot be opened"),
    "other labels": (edit(META, label_names=["a", "b"]), "labels or positions do not match"),
    "labels twice": (edit(META, label_names=["a", "a", "b"]), "label_names must be distinct"),
    "one label": (edit(META, label_names=["a"]), "at least 2 items"),
    "no length": (edit(META, max_length=0), "greater than or equal to 4"),
    "a length that the model lacks": (edit(META, max_length=1000), "labels or positions"),
    "a huge stride": (edit(META, truncation={"kind": "windows", "stride": 10**9}), "stride"),
    "a negative scale": (
        edit(META, decision__calibration={**PLATT, "scale": -1.0}),
        "greater than 0",
    ),
    "too few scales": (
        edit(META, decision__calibration={**PLATT, "scale": [1.0]}),
        "as many labels",
    ),
    "too few thresholds": (edit(META, decision__threshold=[0.5, 0.5]), "as many labels"),
    "no threshold": (edit(META, decision__threshold=[]), "as many labels"),
    "falling maps": (
        edit(
            META,
            decision__calibration={**PLATT, "scale": 1.0, "maps": [[[0.9, 0.1], [0.1, 1]]] * 3},
        ),
        "must rise",
    ),
    "a job without depth": (edit(META, job__x=json.loads("[" * 90 + "]" * 90)), "nested more than"),
}


@pytest.mark.parametrize(("spoil", "words"), SPOILT.values(), ids=SPOILT)
def test_a_spoilt_bundle_is_refused(
    tiny_bundle: str, tmp_path: Path, spoil: Any, words: str
) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    spoil(folder)
    sealed(folder)
    with bounded(), pytest.raises(DataError, match=words) as caught:
        use(folder)
    assert caught.value.exit_code == 2
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


UNSEALED = {
    "a pipe": piped,
    "a list": lambda folder: (folder / META).write_text("[]"),
    "deep": lambda folder: (folder / META).write_text("[" * 100_000),
    "no number": lambda folder: (folder / META).write_text('{"max_length": NaN}'),
    "a huge number": lambda folder: (folder / META).write_text(f'{{"max_length": {"9" * 5000}}}'),
    "other bytes": lambda folder: (folder / META).write_bytes(b"\xff\xfe{\x00"),
    "files elsewhere": edit(META, files={"../../etc/passwd": "0" * 64}),
}


@pytest.mark.parametrize("spoil", UNSEALED.values(), ids=UNSEALED)
def test_a_bundle_of_another_kind_is_refused(tiny_bundle: str, tmp_path: Path, spoil: Any) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    spoil(folder)
    for command in ("inspect", "evaluate"):
        arguments = [folder] if command == "inspect" else [folder, "x.csv"]
        assert run(command, *arguments)[0] == 2


def test_a_link_beside_a_bundle_is_not_written_through(
    tiny_bundle: str, toy_table: Any, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    edit(META, job__data__labels__column="tags")(folder)
    sealed(folder)
    mine = tmp_path / "mine"
    mine.write_text("mine")
    for file in list(folder.iterdir()):
        file.with_name(f".tmp-{file.name}").symlink_to(mine)
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(mine)
    decide_bundle(str(folder), str(toy_table(40)), ["decision.threshold=0.3"], None, print)
    assert mine.read_text() == "mine"
    assert "classifier with 3 labels" in (folder / "README.md").read_text()


def test_pickled_weights_of_a_base_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    from clftask.config.sections import ModelSpec

    folder = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    pickled(folder)
    with pytest.raises(ConfigError, match=r"model\.safetensors is missing"):
        check_base(ModelSpec(base=str(folder)))
    assert [p.name for p in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize("text", ["[", "[1]", '"x"'])
def test_damaged_figures_do_not_stop_a_decision_halfway(
    tiny_bundle: str, toy_table: Any, tmp_path: Path, text: str
) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    (folder / "metrics.json").write_text(text)
    before = (folder / META).read_bytes()
    options = [f"decision.{name}" for name in ("threshold=0.3", "calibration=none")]
    table = str(toy_table(40))
    edit(META, job__data__labels__column="tags")(folder)
    sealed(folder)
    error = sound(lambda: decide_bundle(str(folder), table, options, str(tmp_path / "out"), print))
    assert error is not None
    assert "metrics.json: is damaged" in str(error)
    assert before != b""
    assert not (tmp_path / "out").exists()
