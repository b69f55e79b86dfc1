"""Gates: read as written, refused where they mean nothing."""

from __future__ import annotations

import pytest

from clftask.commands.gates import Gate, all_passed, check_gates, read_gates
from clftask.errors import ConfigError

KNOWN, LOWER = ("macro_f1", "ece"), ("ece",)


def test_gates_are_read_as_written():
    found = read_gates(["macro_f1>=-0.005", " ece <= 1e-2 "], KNOWN, LOWER)
    assert found == [Gate("macro_f1", ">=", -0.005), Gate("ece", "<=", 0.01)]


def test_a_gate_is_kept_up_to_its_bound():
    gates = [Gate("ece", "<=", 0.01), Gate("macro_f1", ">=", 0.0)]
    found = check_gates(gates, {"ece": 0.01, "macro_f1": -1e-6})
    assert [gate["passed"] for gate in found] == [True, False]
    assert found[0]["difference"] == 0.01
    assert not all_passed(found)
    assert all_passed(check_gates(gates[:1], {"ece": 0.01}))
    assert Gate("accuracy", ">=", -0.005).outcome(139 / 200 - 140 / 200)["passed"]
    assert not Gate("accuracy", ">=", -0.005).outcome(None)["passed"]
    assert check_gates([], {}) == []
    assert all_passed([])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("macro_f1", "must be metric>=number"),
        ("macro_f1>0", "must be metric>=number"),
        ("macro_f1>=1.2.3", "must be metric>=number"),
        ("macro_f1<=0.1", "higher macro_f1 is better"),
        ("ece>=0", "lower ece is better"),
        ("micro_f1>=0", "Allowed: ece, macro_f1"),
    ],
)
def test_gates_that_mean_nothing_are_refused(text, words):
    with pytest.raises(ConfigError, match=words):
        read_gates([text], KNOWN, LOWER)
