"""The model card: its code runs, and names of labels and columns are no markup."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from toy_scorers import META, NAMES, opened

from clftask.config.results import Shipped
from clftask.models.model_card import card, code, literal

JOB = {**META.job, "model": {"base": "pkg://a: b#c", "head": {"kind": "linear"}}}


def card_of(rows=(), **changes):
    meta = META.model_copy(update=changes)
    return card(meta, {"per_label": {"validation": list(rows)}, "intervals": INTERVALS})


INTERVALS = {"validation": {"micro_f1": (0.4161, 0.6)}}


@pytest.mark.parametrize(
    ("columns", "example"),
    [
        ({}, "a text"),
        ({"text": ("title", 'the "body"')}, 'the title the the "body"'),
        ({"text_pair": "second"}, {"text": "a text", "text_pair": "a second text"}),
        (
            {"text": ("größe", "b"), "text_pair": "c"},
            {"text": "the größe the b", "text_pair": "a second text"},
        ),
    ],
    ids=["text", "columns", "pair", "columns of a pair"],
)
def test_the_code_of_the_card_runs_and_gives_the_probabilities(make_bundle, columns, example):
    folder = make_bundle("multiclass", **columns)
    (block,) = re.findall(r"```python\n(.*?)```", Path(folder, "README.md").read_text(), re.S)
    *lines, call = block.replace("path/to/bundle", folder).strip().splitlines()
    scope: dict[str, object] = {}
    exec("\n".join(lines), scope)
    answer = eval(call, scope)
    answer = answer[0] if isinstance(answer[0], list) else answer
    row = example if isinstance(example, str) else tuple(example.values())
    (wanted,) = opened(folder).predict(row).probabilities
    found = {entry["label"]: entry["score"] for entry in answer}
    assert found == pytest.approx(dict(zip(NAMES, wanted.tolist(), strict=True)), abs=1e-5)


def test_names_are_no_markup():
    label = "a|b `c` *d* [e](http://f) <script>g</script> &amp; h_i\nj"
    each = {"precision": 0.5, "recall": None, "f1": 0.25, "support": 3}
    text = card_of([{"label": label, **each}])
    (row,) = (line for line in text.splitlines() if line.startswith("| a"))
    assert row == (
        r"| a\|b \`c\` \*d\* \[e\](http://f) \<script\>g\</script\> \&amp; h_i\\nj "
        "| 0.500 | – | 0.250 | 3 |"
    )
    assert literal("c:\\x") == "c:\\\\x"
    assert [code("a"), code("a`b"), code("``")] == ["`a`", "`` a`b ``", "``` `` ```"]


def test_the_front_matter_is_yaml_whatever_the_name_of_the_base():
    _, front, _ = card_of(job=JOB).split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == "pkg://a: b#c"


def test_intervals_and_the_epoch_of_the_weights_are_shown():
    shipped = Shipped(epoch=3, epochs=6, metric="loss", patience=3)
    text = card_of(shipped=shipped)
    assert "| micro_f1 | 0.5000 | 0.416–0.600 |  |" in text
    line = "- Training: stopped after epoch 6: no gain in loss for 3 epochs; epoch 3 ships."
    assert line in text.splitlines()
    assert "- Training" not in card_of()
    assert "_majority" not in card_of()
    figures = {"validation": {"accuracy": 0.5, "accuracy_majority": 0.6}}
    assert "most frequent label" in card_of(metrics=figures)
