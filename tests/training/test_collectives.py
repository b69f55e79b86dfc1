"""What two workers tell each other, and what one sees when the other dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from clftask.training.collectives import forget_launcher

# One process imports torch, for two workers of each backend.
WORKERS = """
import json, os, sys
import numpy as np
import torch.distributed as dist
from clftask.training import collectives

workers = {}
for worker in [(backend, rank) for backend in ("gloo", "cpu:gloo") for rank in (0, 1)]:
    child = os.fork()
    if not child:
        break
    workers[child] = worker
else:
    ended = [os.wait() for _ in workers]
    sys.exit(any(status for _, status in ended))

backend, rank = worker
path = f"{sys.argv[1]}/{backend}"
dist.init_process_group(backend, init_method=f"file://{path}", rank=rank, world_size=2)
found = {"value": collectives.broadcast_from_first({"from": rank})}
found["groups"] = len({collectives.host_group() for _ in range(2)})
mine = None if rank else np.arange(6, dtype=np.float32).reshape(2, 3)
found["array"] = collectives.array_from_first(mine, (2, 3)).tolist()
found["agree"] = [collectives.all_agree(vote) for vote in (True, rank == 0, False)]
found["worked"] = [collectives.worked_everywhere(worked) for worked in (True, False)]
found["highest"] = collectives.highest(7 + rank)
try:
    collectives.worked_everywhere(rank == 0)
except RuntimeError as error:
    found["mixed"] = str(error)
found["default"] = collectives.host_group() is None
dist.barrier()
if rank == 1:
    os._exit(0)
try:
    for _ in range(100):
        dist.barrier()
except Exception as error:
    found["lost"] = collectives.is_lost_connection(f"{type(error).__name__}: {error}")
    found["collective"] = collectives.is_collective(error)
with open(f"{path}.json", "w") as file:
    json.dump(found, file)
os._exit(0)
"""


def test_the_first_workers_value_reaches_the_other_and_a_death_is_seen(tmp_path):
    subprocess.run([sys.executable, "-c", WORKERS, str(tmp_path)], check=True, timeout=120)
    both = {"value": {"from": 0}, "groups": 1, "lost": True, "collective": True}
    both["array"] = [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    both |= {"agree": [True, False, False], "worked": [True, False], "highest": 8}
    both["mixed"] = "some workers ran out of memory, and the others did not"
    for backend, is_default in (("gloo", True), ("cpu:gloo", False)):
        found = json.loads((tmp_path / f"{backend}.json").read_text())
        assert found == {**both, "default": is_default}, backend


def test_what_a_launcher_told_a_single_worker_is_forgotten(monkeypatch):
    """accelerate would wait for the other workers of torchrun or MPI."""
    for name in ("WORLD_SIZE", "LOCAL_RANK", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("MY_WORLD_SIZE", "2")
    forget_launcher()
    left = {"WORLD_SIZE", "LOCAL_RANK", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MY_WORLD_SIZE"}
    assert left & set(os.environ) == {"MY_WORLD_SIZE"}
