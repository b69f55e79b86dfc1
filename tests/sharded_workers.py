"""Trains works in two processes on gloo, as Ray's workers would: `sharded_workers.py TASKS`."""

from __future__ import annotations

import json
import os
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from training_work import Recorder

from clftask.training import worker
from clftask.training.work import Work


@dataclass(frozen=True)
class Task:
    """A work to train.

    Attributes:
        work: The work.
        until: The step at which the first worker is killed.
        is_failing: Whether they run out of memory, once in training and once in evaluation.
    """

    work: Work
    until: int | None = None
    is_failing: bool = False


def train(task: Task, rank: int) -> None:
    """Train in this process; the first worker writes its records and its error beside the run."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    run, sink = task.work.run, Recorder(task.until)
    dist.init_process_group("gloo", init_method=f"file://{run}.store", rank=rank, world_size=2)
    sink.run = run
    if task.is_failing:
        build = worker.build_trainer
        worker.build_trainer = lambda *args: out_of_memory_once(build(*args))
    try:
        worker.fit(task.work, sink, rank, 2, "cpu")
    finally:
        if rank == 0:
            Path(f"{run}.json").write_text(json.dumps(sink.records))
        sys.stderr.flush()
        os._exit(0)


def out_of_memory_once(trainer: Any) -> Any:
    """Let the first pass fail in training, and in evaluation after three that try padding."""
    seen = {True: 0, False: -3}

    def fail(module: Any, *_: Any) -> None:
        seen[module.training] += 1
        if seen[module.training] == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    trainer.model.register_forward_pre_hook(fail)
    return trainer


if __name__ == "__main__":
    for task in pickle.loads(Path(sys.argv[1]).read_bytes()):
        children = []
        for rank in range(2):
            child = os.fork()
            if not child:
                train(task, rank)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)
