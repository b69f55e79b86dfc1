"""Compiled layers in training, used where the steps ahead outweigh compiling."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from transformers import TrainerCallback, TrainingArguments

from clftask.config.sections import TrainingSpec
from clftask.messages import first_line
from clftask.models.compiling import compile_layers, paused, uncompile
from clftask.models.memory import is_device_failure
from clftask.training.collectives import all_agree, broadcast_from_first

# Seconds of steps ahead that pay for compiling, which takes about 40 s on a GPU.
PAYS_S = {"cuda": 180.0}
_ELSEWHERE = "it fails on another worker"
FIRST, LAST = 3, 13  # the steps that are timed; those before allocate memory
_Value = TypeVar("_Value")
_Arguments = ParamSpec("_Arguments")
_log = logging.getLogger(__name__)


class Compiling(TrainerCallback):  # type: ignore[misc]
    """Compiles the layers of a model that is being trained; evaluation runs them as they are.

    Args:
        model: The model, without DDP.
        args: From `training_arguments`.
        spec: The job's training section.
        try_step: Runs a step on a few rows; returns why it fails, "" if it works.
        note: Receives what a user should know.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        args: TrainingArguments,
        spec: TrainingSpec,
        try_step: Callable[[], str],
        note: Callable[[str], None],
    ) -> None:
        self.model, self.args, self.try_step, self.note = model, args, try_step, note
        self.wanted = spec.compile
        if spec.deterministic and self.wanted == "auto":
            self.wanted = False  # no timing decides
        self.layers: list[torch.nn.Module] = []
        self.is_started = False
        self.num_steps, self.seconds, self.began = 0, 0.0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Compile if the job says so."""
        if self.wanted is True:
            self.start()

    def leave_out(self, reason: str) -> None:
        """Compile nothing; say why if the job asks for it."""
        if self.wanted is True:
            self.note(f"training.compile has no effect: {reason}")
        self.wanted = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        self.began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Time some steps; then compile if enough of them are ahead."""
        device = self.args.device.type
        if self.wanted != "auto" or self.num_steps == LAST or device not in PAYS_S:
            return
        self.num_steps += 1
        if device == "cuda" and self.num_steps in (FIRST, LAST):
            torch.cuda.synchronize()
        if self.num_steps > FIRST:
            self.seconds += time.perf_counter() - self.began
        if self.num_steps == LAST:
            ahead = self.seconds / (LAST - FIRST) * (state.max_steps - state.global_step)
            if broadcast_from_first(ahead > PAYS_S[device]):
                self.start()

    def start(self) -> None:
        """Compile the layers and try a step; every worker calls it.

        If it fails on a worker, all of them train without compiled layers.
        """
        began = time.perf_counter()
        self.is_started = True
        self.layers = compile_layers(self.model, lambda error: self._give_up(first_line(error)))
        reason = self.try_step()
        if all_agree(bool(self.layers) and not reason):
            self.note(f"the layers are compiled, in {time.perf_counter() - began:.0f} s")
        elif self.layers:
            self._give_up(reason or _ELSEWHERE)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Run the layers as they are on all workers, if they are on one: the others wait for it."""
        if self.is_started and not all_agree(bool(self.layers)) and self.layers:
            self._give_up(_ELSEWHERE)

    def unless_it_fails(
        self,
        call: Callable[_Arguments, _Value],
        *args: _Arguments.args,
        **options: _Arguments.kwargs,
    ) -> _Value | None:
        """Return the value of a step; None if compiled layers failed in its backward pass.

        Those that fail in a forward pass run as they are at once, on any number of workers.
        """
        try:
            return call(*args, **options)
        except Exception as error:  # torch's compilers raise all classes
            # Several workers may have synced some gradients: the step cannot be repeated.
            if not self.layers or self.args.world_size > 1 or is_device_failure(error):
                raise
            reason = first_line(error)
        self._give_up(reason)
        return None

    def _give_up(self, reason: str) -> None:
        self.stop()
        self.note(f"the layers run without torch.compile: {reason}")

    def stop(self) -> None:
        """Run the layers as they are from now on."""
        uncompile(self.layers)
        self.layers = []

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Run the layers as they are, for an evaluation: it would be compiled anew."""
        with paused(self.layers):
            yield
