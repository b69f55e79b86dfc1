"""Bundles of adapters: merged or apart, the same probabilities however they are opened."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_architectures import TEXTS, base_of, plain
from training_work import Recorder, run, work_factory

import clftask
from clftask.config.sections import ModelSpec
from clftask.errors import ConfigError, DataError
from clftask.models import bundle
from clftask.models.base_checks import check_base
from clftask.models.file_checks import ADAPTER
from clftask.models.weights import Weights
from clftask.training.checkpoints import Checkpoints

pytestmark = pytest.mark.model

LORA = {"kind": "lora", "r": 4, "alpha": 8}
APART = {**LORA, "merge": False}


def probabilities(folder: str | Path) -> np.ndarray:
    return clftask.load(str(folder)).predict(TEXTS).probabilities


@pytest.mark.parametrize(
    ("name", "head"), [("Bert", "linear"), ("ModernBert", "mlp"), ("Qwen3", "linear")]
)
def test_probabilities_are_the_same_however_a_bundle_is_opened(name, head, toy_table, tmp_path):
    make = work_factory(tmp_path, toy_table(60), base_of(name, tmp_path / "base"))
    options = {"task": "multiclass", "head": head, "epochs": 1}
    folders = {}
    for kind, adapt in {"merged": LORA, "apart": APART}.items():
        work = make(kind, model={"adapt": adapt}, **options)
        run(work)
        folders[kind] = Path(work.run, "bundle")
    expected = probabilities(folders["merged"])
    assert np.ptp(expected[:, 0]) > 1e-3
    others = [probabilities(folders["apart"]), *(plain(f, TEXTS) for f in folders.values())]
    for found in others:
        np.testing.assert_allclose(found, expected, atol=1e-5)
    saved = load_file(folders["apart"] / ADAPTER)
    assert not (folders["apart"] / "model.safetensors").exists()
    assert max(float(w.abs().max()) for n, w in saved.items() if ".lora_B" in n) > 1e-3
    (checkpoint, *_) = Path(tmp_path, "apart", "checkpoints").glob("step-*")
    assert load_file(checkpoint / "model.safetensors").keys() == saved.keys()
    _rewritten(folders["apart"], tmp_path / "again", expected)


def _rewritten(folder: Path, place: Path, expected: np.ndarray) -> None:
    """Check a bundle that `decide` writes again from what it opens."""
    meta = bundle.read_meta(str(folder))
    model, tokenizer = bundle.open_model(str(folder), meta)
    place.mkdir()
    bundle.write(place, model, tokenizer, meta, {"per_label": {"validation": []}})
    np.testing.assert_allclose(probabilities(place), expected, atol=1e-6)
    assert (place / ADAPTER).exists()


def test_a_killed_training_of_an_adapter_resumes_with_the_same_result(make_work, monkeypatch):
    """Gradient checkpointing changes nothing."""
    monkeypatch.setattr(Checkpoints, "is_uploading", lambda own: False)  # each epoch is saved
    options = {"epochs": 3, "layer_decay": 0.5}
    model = {"adapt": APART}
    whole, killed = (
        make_work("whole", model=model, **options),
        make_work("killed", model=model, gradient_checkpointing=True, **options),
    )
    expected = run(whole)
    with pytest.raises(KeyboardInterrupt):
        run(killed, Recorder(fail_at=13, checkpoint=12))
    assert [record["step"] for record in run(killed).evaluations()] == [18], "it began anew"
    before, after = (load_file(Path(work.run, "bundle", ADAPTER)) for work in (whole, killed))
    assert expected.done["steps"] == 18
    for name in before:
        torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["GPT2", "Llama"])
def test_a_decoder_without_a_padding_token_pads_with_its_end_of_text(name, toy_table, tmp_path):
    base = base_of(name, tmp_path / "base")
    changed = {"pad_token": None, "padding_side": "left"}
    for file, more in {
        "tokenizer_config.json": changed,
        "config.json": {"pad_token_id": None},
    }.items():
        content = json.loads((base / file).read_text()) | more
        (base / file).write_text(json.dumps(content))
    assert check_base(ModelSpec(base=str(base), max_length=32)).pad_token == "[SEP]"
    work = work_factory(tmp_path, toy_table(60), base)(task="multiclass", epochs=1)
    run(work)
    folder = Path(work.run, "bundle")
    saved = json.loads((folder / "tokenizer_config.json").read_text())
    assert (saved["pad_token"], saved["padding_side"]) == ("[SEP]", "right")
    assert json.loads((folder / "config.json").read_text())["pad_token_id"] == 3
    together = probabilities(folder)
    scorer = clftask.load(str(folder))
    alone = np.concatenate([scorer.predict([text]).probabilities for text in TEXTS])
    np.testing.assert_allclose(alone, together, atol=1e-5)
    np.testing.assert_allclose(plain(folder, TEXTS), together, atol=1e-5)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("targets", "value"),
    [(["query", "qkv"], "qkv"), ("query", "query"), (["classifier"], "classifier")],
)
def test_targets_that_match_nothing_are_refused_with_the_layers_there_are(
    tiny_base, targets, value
):
    with pytest.raises(ConfigError) as caught:
        check_base(ModelSpec(base=str(tiny_base), adapt={**LORA, "targets": targets}))
    (problem,) = caught.value.problems
    assert (problem.path, problem.value) == ("model.adapt.targets", value)
    assert "its layers: encoder.layer.*.attention.self.query, encoder.layer.*" in problem.allowed


def test_lora_without_peft_is_refused(tiny_base, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"pip install 'clftask\[lora\]'"):
        check_base(ModelSpec(base=str(tiny_base), adapt="lora"))


def test_a_quantised_base_is_refused(tiny_base, tmp_path):
    shutil.copytree(tiny_base, tmp_path / "base")
    config = tmp_path / "base" / "config.json"
    quantised = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
    config.write_text(json.dumps(json.loads(config.read_text()) | quantised))
    with pytest.raises(ConfigError, match="quantised weights, which cannot be trained"):
        check_base(ModelSpec(base=str(tmp_path / "base"), adapt="lora"))


@pytest.mark.parametrize("adapt", [APART, "head_only"])
def test_a_run_does_not_resume_on_another_base(adapt, tiny_base, toy_table, tmp_path):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    work = work_factory(tmp_path, toy_table(60), base)(model={"adapt": adapt}, epochs=4)
    with pytest.raises(KeyboardInterrupt):
        run(work, Recorder(fail_at=6, checkpoint=3))
    _with_other_weights(base)
    with pytest.raises(ConfigError, match=r"weights have changed: step-\d+ was trained on other"):
        run(work)
    shutil.copytree(tiny_base, base, dirs_exist_ok=True)
    assert run(work).done["steps"] == 12


def test_a_file_that_does_not_name_its_base_is_refused(tiny_base, tmp_path):
    model = torch.nn.Linear(2, 2)
    model.base_model_prefix, model.name_or_path = "bert", str(tiny_base)
    save_file(model.state_dict(), tmp_path / "weights")
    with pytest.raises(ConfigError, match="does not tell on which weights it was trained"):
        Weights(model, keeps_base=True).load(tmp_path / "weights")


def _with_other_weights(base: Path) -> None:
    weights = load_file(base / "model.safetensors")
    changed = {name: tensor + 0.01 for name, tensor in weights.items()}
    save_file(changed, base / "model.safetensors", {"format": "pt"})


def test_an_adapter_without_its_base_or_peft_is_refused(
    tiny_base, toy_table, tmp_path, monkeypatch
):
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    work = work_factory(tmp_path, toy_table(60), base)(model={"adapt": APART}, epochs=1)
    run(work)
    folder = f"{work.run}/bundle"
    with pytest.raises(ConfigError, match="contains an adapter without its base"):
        check_base(ModelSpec(base=folder))
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "peft", None)
        with pytest.raises(DataError, match=r"pip install 'clftask\[lora\]'"):
            clftask.load(folder)
    _with_other_weights(base)
    with pytest.raises(DataError, match="was trained on another base"):
        clftask.load(folder)
    base.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=f"its base {base} is missing"):
        clftask.load(folder)
