"""What two workers tell each other, and what one sees when the other dies."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

WORKER = """
import json, os, sys
import torch.distributed as dist
from clftask.training import collectives

rank, backend, path = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group(backend, init_method=f"file://{path}", rank=rank, world_size=2)
found = {"value": collectives.broadcast_from_first({"from": rank})}
found["groups"] = len({collectives.host_group() for _ in range(2)})
found["agree"] = [collectives.all_agree(vote) for vote in (True, rank == 0, False)]
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
print(json.dumps(found))
os._exit(0)
"""


LOST = {"lost": True, "collective": True}


@pytest.mark.parametrize(
    ("backend", "is_default"),
    [pytest.param("gloo", True, id="gloo"), pytest.param("cpu:gloo", False, id="another backend")],
)
def test_the_first_workers_value_reaches_the_other_and_a_death_is_seen(
    tmp_path, backend, is_default
):
    command = [sys.executable, "-c", WORKER]
    arguments = [backend, str(tmp_path / "store")]
    second = subprocess.Popen([*command, "1", *arguments])
    first = subprocess.run([*command, "0", *arguments], capture_output=True, text=True, timeout=120)
    assert second.wait(60) == 0
    found = json.loads(first.stdout.splitlines()[-1])
    agree = [True, False, False]
    assert found == {
        "value": {"from": 0}, "groups": 1, "default": is_default, "agree": agree, **LOST,
    }  # fmt: skip
