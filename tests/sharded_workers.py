"""Trains each work of a file in two processes on gloo, as Ray's workers would: `python FILE`."""

from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist
from training_work import Recorder

from clftask.training.work import Work
from clftask.training.worker import fit


def in_two_workers(work: Work, fail_at: int | None) -> None:
    """Train; write the first worker's records beside the run."""
    children = [os.fork() for _ in range(2) if os.getpid() == PARENT]
    if os.getpid() != PARENT:
        worker(work, fail_at, rank=len(children) - 1)
    for child in children:
        os.waitpid(child, 0)


def worker(work: Work, fail_at: int | None, rank: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    store = f"file://{work.run}.store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    sink = Recorder(fail_at)
    sink.run = work.run
    try:
        fit(work, sink, rank, 2, "cpu")
    finally:
        if rank == 0:
            Path(f"{work.run}.json").write_text(json.dumps(sink.records))
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    PARENT = os.getpid()
    tasks: list[Any] = pickle.loads(Path(sys.argv[1]).read_bytes())
    for task in tasks:
        in_two_workers(*task)
