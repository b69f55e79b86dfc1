"""When a run saves: decided without training."""

from __future__ import annotations

from types import SimpleNamespace

from clftask.training import callbacks
from clftask.training.callbacks import SaveEvery


def saves(callback, steps=30, per_epoch=1000):
    """Return the steps at whose end a checkpoint is asked for."""
    found = []
    for step in range(1, steps + 1):
        state = SimpleNamespace(global_step=step, epoch=step / per_epoch)
        control = SimpleNamespace(should_save=False)
        callback.on_step_end(None, state, control)
        if control.should_save:
            found.append(step)
            callback.on_save(None, state, control)
    return found


def test_fast_steps_are_looked_at_every_tenth_time():
    assert saves(SaveEvery(0, lambda: False)) == [1, 11, 21]


def test_the_end_of_an_epoch_saves_by_itself():
    assert saves(SaveEvery(0, lambda: False), steps=11, per_epoch=11) == [1]


def test_a_young_checkpoint_is_enough():
    assert saves(SaveEvery(1e9, lambda: False)) == []


def test_news_that_a_machine_is_about_to_leave_saves_at_once():
    asked = iter([False, True, True])
    assert saves(SaveEvery(1e9, lambda: next(asked))) == [11]


def test_while_a_machine_is_about_to_leave_checkpoints_are_younger(monkeypatch):
    monkeypatch.setattr(callbacks, "LEAVING_S", 0)
    asked = iter([False, True, True])
    assert saves(SaveEvery(1e9, lambda: next(asked))) == [11, 21]


def test_slow_steps_are_all_looked_at(monkeypatch):
    clock = iter(range(0, 10_000, 7))
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: next(clock))
    looked = []
    saves(SaveEvery(1e9, lambda: bool(looked.append(1))), steps=5)
    assert len(looked) == 5
