"""What a running job shows: at any width the steps and the time left, and no old figures."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from clftask.cli.progress import ScoreScreen, TrainScreen

STEP = {"epoch": 0.5, "max_steps": 12_000, "loss": 0.43219, "samples_per_s": 123.456}
EVALUATION = {
    "step": 400, "epoch": 2.0, "max_steps": 12_000, "eval_loss": 0.5, "eval_micro_f1": 0.6,
    "eval_macro_f1": 0.7123, "eval_hamming_loss": 0.1,
}  # fmt: skip


@pytest.fixture
def bar(monkeypatch):
    """Return the progress line at a width, its time left unknown."""
    monkeypatch.setattr("rich.progress.Task.time_remaining", None)

    def line(width: int, screen_of, *records) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        screen = screen_of()
        for record in records:
            screen.show(record)
        with screen.console.capture() as found:
            screen.console.print(screen.progress.get_renderable())
        (shown,) = found.get().rstrip("\n").split("\n")
        assert cell_len(shown) <= width
        return shown

    return line


@pytest.mark.parametrize(
    ("width", "figures"),
    [
        (40, ""),
        (60, "loss 0.4322"),
        (80, "loss 0.4322"),
        (120, "loss 0.4322  epoch 2: macro_f1 0.7123  123.5 rows/s"),
    ],
)
def test_figures_give_way_first(bar, width, figures):
    records = [EVALUATION, {"step": 410, **STEP}]
    shown = bar(width, lambda: TrainScreen("macro_f1"), *records)
    assert shown.startswith("training ")
    assert " 410/12000 -:--:--" in shown
    assert shown.rpartition("-:--:--")[2].strip() == figures


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_rows_and_time_left_of_scoring_stay(bar, width):
    record = {"scored_now": 0, "rows": 20_000, "total": 1_000_000, "quarantined": 7, "skipped": 9}
    shown = bar(width, ScoreScreen, record)
    assert " 20000/1000000 -:--:--" in shown
    assert ("7 quarantined" in shown) is (width >= 60)
    later = record | {"scored_now": 40, "rows": 20_040}
    assert " left" not in bar(width, ScoreScreen, record, later)  # the bar says it


def test_an_evaluation_shows_the_loss_and_the_metric_of_the_job(capsys):
    TrainScreen("macro_f1").show(EVALUATION)
    assert capsys.readouterr().err == "epoch 2: validation loss 0.5000  macro_f1 0.7123\n"
    TrainScreen("loss").show(EVALUATION)
    assert capsys.readouterr().err == "epoch 2: validation loss 0.5000\n"


def test_lines_of_steps_have_no_validation_figures_and_come_every_50_steps(capsys):
    screen = TrainScreen("macro_f1")
    screen.show(EVALUATION)
    for step in range(407, 620, 7):  # no multiples of 50
        screen.show({"step": step, **STEP})
    _, *lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        f"step {step}/12000" for step in (407, 463, 519, 575)
    ]
    assert {line.partition(": ")[2] for line in lines} == {"loss 0.4322  123.5 rows/s"}


def test_a_figure_that_is_undefined_is_shown_as_a_dash(capsys):
    TrainScreen("macro_f1").show({**EVALUATION, "eval_macro_f1": None})
    assert capsys.readouterr().err == "epoch 2: validation loss 0.5000  macro_f1 –\n"
