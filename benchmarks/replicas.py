"""Workers of a scoring job: one with all CPUs, or one for each CPU; on a GPU, several or one.

The configurations alternate. Printed for each round: rows per second between 20 % and 90 % of
the rows, and of the whole job; at the end the medians, and the ratio to the first configuration
with its range. Use it on an idle machine.

    python benchmarks/replicas.py --bundle BUNDLE --input TABLE [--rounds 3] [--gpus 0.5 0.25]
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from clftask.config.score import ScoreJob
from clftask.distributed.score.driver import score
from clftask.distributed.session import connected


def speeds(args: argparse.Namespace, scaling: dict, output: Path) -> tuple[float, float]:
    """Return rows per second of the middle part and of the whole job."""
    job = {
        "bundle": args.bundle,
        "input": {"path": args.input},
        "output": {"path": str(output)},
        "shard_rows": args.shard_rows,
        "precision": args.precision,
        "scaling": scaling,
    }
    stamps: list[tuple[float, int]] = []
    found = score(
        ScoreJob.load(job),
        lambda line: None,
        lambda record: stamps.append((time.perf_counter(), record["rows"])),
    )
    middle = [stamp for stamp in stamps if 0.2 * found.rows_in <= stamp[1] <= 0.9 * found.rows_in]
    (begin, before), (end, after) = middle[0], middle[-1]
    return (after - before) / (end - begin), found.rows_per_s


def configurations(gpus: list[float]) -> dict[str, dict]:
    """Return the scaling of each configuration by its name; the first one is the reference."""
    cpus = os.cpu_count() or 1
    if not gpus:
        sizes = {1: cpus, cpus: 1}
        return {
            f"{n} x {size} CPUs": {"workers": n, "cpus_per_worker": size, "use_gpu": False}
            for n, size in sizes.items()
        }
    counts = {share: int(1 / share + 1e-9) for share in (1.0, *gpus)}
    return {
        f"{n} x {share:g} GPUs": {
            "workers": n, "cpus_per_worker": cpus // n, "use_gpu": True, "gpus_per_worker": share
        }
        for share, n in counts.items()
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--input", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shard-rows", type=int, default=250)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--gpus", type=float, nargs="*", default=[])
    args = parser.parse_args()
    kinds = configurations(args.gpus)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    with tempfile.TemporaryDirectory() as name, connected():
        for number in range(args.rounds):
            for place, (kind, scaling) in enumerate(kinds.items()):
                speed = speeds(args, scaling, Path(name, f"{number}-{place}"))
                found[kind].append(speed)
                print(f"round {number + 1}, {kind}: {speed[0]:.1f} rows/s, "
                      f"{speed[1]:.1f} with start", flush=True)  # fmt: skip
    first = [middle for middle, _ in next(iter(found.values()))]
    for kind, both in found.items():
        ratios = [middle / other for (middle, _), other in zip(both, first, strict=True)]
        median = statistics.median(middle for middle, _ in both)
        print(f"{kind}: {median:.1f} rows/s, {statistics.median(ratios):.2f} times the first, "
              f"{min(ratios):.2f} to {max(ratios):.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
