"""Runs a command of clftask and measures it: wall time, and CPU time of all its processes."""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil

POLL_S = 0.5


def run(kind: str, document: dict, folder: Path) -> dict:
    """Run `clftask KIND` on a job; return its JSON result with `wall_s` and `cpu_s`.

    Ray's processes do not wait for their children, so all of them are looked at while they run:
    the last half second of each is missing.
    """
    file = folder / "job.yaml"
    file.write_text(json.dumps(document))
    command = [sys.executable, "-m", "clftask", kind, str(file), "--json"]
    started, seconds = time.perf_counter(), {}
    with psutil.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            for one in [process, *_children(process)]:
                try:
                    times = one.cpu_times()
                    seconds[one.pid, one.create_time()] = times.user + times.system
                except psutil.Error:
                    pass  # it has ended
            time.sleep(POLL_S)
        result = json.loads(process.stdout.read().splitlines()[-1])
    if process.returncode:
        raise SystemExit(f"{kind} failed: {result}")
    wall = time.perf_counter() - started
    return {**result, "wall_s": wall, "cpu_s": sum(seconds.values())}


def _children(process: psutil.Popen) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def table(columns: list[str], rows: list[list]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
