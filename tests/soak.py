"""Jobs on three nodes while machines, workers, drivers and the S3 server die at random.

    python tests/soak.py [--minutes 60] [--seed 0] [--every 10]

Three workers take 12 s to start on two cores: there a training ends with `--every 30`, hardly with
the default pace, which is for larger machines.

At the end each score table holds each row once, each training has a bundle that opens, and
nothing is left behind. Exits with 1 if that is not so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import yaml
from conftest import ADMIN, S3Process, environment, free_ports
from nodes import Node, RayNodes, ray_nodes
from pyarrow import parquet

from clftask.commands.inspect import inspect
from clftask.io import listing, storage
from clftask.models import bundle
from clftask.training.run_dir import records

ROWS, EPOCHS = 30_000, 20
MAX_STARTS = 30
WORKERS = ("ray::ScoreActor", "ray::RayTrainWorker")
# Ray's: of the first a cluster has one, for good; the other ends some seconds after its run.
COORDINATOR, CLEANER = "_AutoscalingCoordinatorActor", "PlacementGroupCleaner"
WORDS = {"network": "the router", "graphics": "a pixel shader", "sound": "fast audio melody"}


@dataclass
class World:
    """What may die.

    Attributes:
        cluster: The nodes; the head is spared, as it is where drivers live.
        s3: The object store.
        bucket: Its URL.
        driver: The command that runs now.
        faults: How often what was killed.
    """

    cluster: RayNodes
    s3: S3Process
    bucket: str
    driver: subprocess.Popen[bytes] | None = None
    faults: Counter[str] = field(default_factory=Counter)

    def kill_node(self, rng: random.Random) -> None:
        living = self.living()
        if len(living) > 1:
            rng.choice(living).kill()
            self.cluster.add(1)

    def kill_worker(self, rng: random.Random) -> None:
        found = [p for p in _ray_processes() if p.info["name"].startswith(WORKERS)]
        if found:
            with contextlib.suppress(psutil.NoSuchProcess):
                rng.choice(found).kill()

    def kill_driver(self, rng: random.Random) -> None:
        if self.driver is not None:
            self.driver.kill()

    def stop_driver(self, rng: random.Random) -> None:
        if self.driver is not None:
            self.driver.terminate()

    def kill_s3(self, rng: random.Random) -> None:
        self.s3.kill()
        time.sleep(rng.uniform(1, 5))
        self.s3.start()

    def living(self) -> list[Node]:
        return [node for node in self.cluster.nodes[1:] if node.process.poll() is None]

    def do_harm(self, rng: random.Random) -> None:
        kinds: dict[str, tuple[int, Callable[[random.Random], None]]] = {
            "worker killed": (4, self.kill_worker),
            "node killed": (2, self.kill_node),
            "driver killed": (1, self.kill_driver),
            "driver terminated": (1, self.stop_driver),
            "S3 server killed": (1, self.kill_s3),
        }
        name = rng.choices(list(kinds), [weight for weight, _ in kinds.values()])[0]
        kinds[name][1](rng)
        self.faults[name] += 1


@contextlib.contextmanager
def harm(world: World, rng: random.Random, every: float) -> Iterator[None]:
    """Do harm every so many seconds in the mean."""
    over = threading.Event()
    with ThreadPoolExecutor(1) as beside:

        def run() -> None:
            while not over.wait(rng.uniform(0.4, 1.6) * every):
                world.do_harm(rng)

        harmed = beside.submit(run)
        try:
            yield
        finally:
            over.set()
        harmed.result()


def run_job(world: World, kind: str, job: dict[str, Any], folder: Path) -> int:
    """Run a job, and again whenever its driver ends before it is done; return how often."""
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(job))
    for start in range(1, MAX_STARTS + 1):
        with (folder / "driver.log").open("ab") as log:
            command = [sys.executable, "-m", "clftask", kind, str(file)]
            world.driver = subprocess.Popen(command, stdout=log, stderr=log)
            code = world.driver.wait()
        world.driver = None
        if code == 0:
            return start
        print(f"    start {start} ended with {code}", flush=True)
        if code == 2:  # refused: trying again changes nothing
            break
    raise SystemExit(f"a job was not done after {start} starts: {folder}")


# ------------------------------------------------------------------ the jobs


def write_tables(bucket: str) -> None:
    names = list(WORDS)
    ids = [f"row-{i}" for i in range(ROWS)]
    texts = [f"{WORDS[names[i % 3]]} number {i % 97}" for i in range(ROWS)]
    labels = [names[i % 3] for i in range(ROWS)]
    columns = {"id": ids, "text": texts, "label": labels}
    for name, count in (("corpus", ROWS), ("train", 600)):
        sink = pa.BufferOutputStream()
        parquet.write_table(pa.table(columns).slice(0, count), sink, row_group_size=5_000)
        storage.put(f"{bucket}/{name}.parquet", sink.getvalue().to_pybytes())


def train_job(bucket: str, name: str) -> dict[str, Any]:
    return {
        "task": "multiclass",
        "data": {
            "train": f"{bucket}/train.parquet",
            "text": "text",
            "id": "id",
            "labels": {"kind": "class", "column": "label"},
        },
        "model": {"base": f"{bucket}/base", "max_length": 32},
        "training": {
            "epochs": EPOCHS,
            "batch_size": 24,
            "precision": "fp32",
            "early_stopping": None,
        },
        "scaling": {"workers": [1, 3], "cpus_per_worker": 1, "max_failures": 20},
        "run": {"storage": f"{bucket}/runs", "name": name, "resume": True},
    }


def score_job(bucket: str, name: str) -> dict[str, Any]:
    return {
        "bundle": f"{bucket}/runs/first/bundle",
        "input": {"path": f"{bucket}/corpus.parquet", "id": "id"},
        "output": {"path": f"{bucket}/scores/{name}"},
        "shard_rows": 250,
        "precision": "fp32",
        "scaling": {"workers": [1, 3], "cpus_per_worker": 1},
    }


def wrong_rows(output: str) -> tuple[int, int]:
    """Return how many rows a table lacks and how many it has too often."""
    files = [f.path for f in listing.list_files(output) if f.path.endswith(".parquet")]
    found = Counter[str]()
    for file in files:
        found.update(
            parquet.read_table(pa.BufferReader(storage.read_bytes(file)))["id"].to_pylist()
        )
    lost = sum(f"row-{i}" not in found for i in range(ROWS))
    return lost, sum(found.values()) - len(found)


def is_sound(run: str) -> bool:
    """Tell whether a training's bundle opens and no epoch's figures are lost or doubled."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, meta = bundle.fetch(f"{run}/bundle", scratch)
        bundle.open_model(folder, meta)
    epochs = [record["epoch"] for record in records(run) if "eval_loss" in record]
    return inspect(run).progress.state == "finished" and epochs == list(range(1, EPOCHS + 1))


# ------------------------------------------------------------------ what is left


def _ray_processes() -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["name"]) if p.info["name"].startswith("ray::")]


def leaks(before: set[str], bucket: str) -> dict[str, list[str]]:
    """Return what jobs that are over have left behind."""
    import boto3
    import ray
    from ray.util import placement_group_table
    from ray.util.state import list_actors

    ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False, logging_level="ERROR")
    groups = [g for g in placement_group_table().values() if g["state"] != "REMOVED"]
    found = list_actors(filters=[("state", "=", "ALIVE")], limit=1000)
    actors = sorted(actor.class_name for actor in found)
    ray.shutdown()
    if COORDINATOR in actors:
        actors.remove(COORDINATOR)
    name = bucket.removeprefix("s3://")
    uploads = boto3.client("s3").list_multipart_uploads(Bucket=name).get("Uploads", [])
    states = [f.path for f in listing.list_files(bucket) if "/.ray/" in f.path]
    folders = {p.name for p in Path(tempfile.gettempdir()).glob("clftask-*")} - before
    return {
        "placement groups": [str(g["name"]) for g in groups],
        "actors": actors,
        "workers": [p.info["name"] for p in _ray_processes() if p.info["name"].startswith(WORKERS)],
        "multipart uploads": [u["Key"] for u in uploads],
        "state of Ray in storage": states,
        "temporary folders": sorted(folders),
    }


# ------------------------------------------------------------------ the hour


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=float, default=10, help="seconds from fault to fault")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    server = S3Process(folder, free_ports(4))
    variables = {
        "AWS_ENDPOINT_URL_S3": server.endpoint,
        "AWS_ACCESS_KEY_ID": ADMIN[0],
        "AWS_SECRET_ACCESS_KEY": ADMIN[1],
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with environment(variables), server, ray_nodes(1, 1, 1) as cluster:
        server.make_bucket("soak")
        failed = soak(World(cluster, server, "s3://soak"), args, rng, folder)
    raise SystemExit(failed)


def soak(world: World, args: argparse.Namespace, rng: random.Random, folder: Path) -> bool:
    before = {p.name for p in Path(tempfile.gettempdir()).glob("clftask-*")}
    write_tables(world.bucket)
    storage.upload(str(small_base(folder)), f"{world.bucket}/base")
    run_job(world, "train", train_job(world.bucket, "first"), folder)
    end, done, starts = time.monotonic() + args.minutes * 60, Counter[str](), 0
    lost = doubled = unsound = 0
    with harm(world, rng, args.every):
        while time.monotonic() < end:
            kind = rng.choice(["train", "score", "score"])
            name = f"{kind}-{done[kind]}"
            job = (train_job if kind == "train" else score_job)(world.bucket, name)
            starts += run_job(world, kind, job, folder)
            done[kind] += 1
            print(f"{name} done; faults so far: {dict(world.faults)}", flush=True)
    for number in range(done["score"]):
        output = f"{world.bucket}/scores/score-{number}"
        rows = wrong_rows(output)
        lost, doubled = lost + rows[0], doubled + rows[1]
        unsound += inspect(output, verify=True).state != "complete"
    unsound += sum(not is_sound(f"{world.bucket}/runs/train-{i}") for i in range(done["train"]))
    time.sleep(10)
    left = leaks(before, world.bucket)
    if set(left["actors"]) == {CLEANER}:
        time.sleep(50)
        left["actors"] = leaks(before, world.bucket)["actors"]
    report = {"jobs": dict(done), "starts": starts, "faults": dict(world.faults)}
    report |= {"rows lost": lost, "rows doubled": doubled, "unsound": unsound, "left": left}
    print(json.dumps(report, indent=2))
    return bool(lost or doubled or unsound or any(left.values()))


def small_base(folder: Path) -> Path:
    """Write a small random BERT of letters, of 9 MB: large files go to S3 in several parts."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    place = folder / "base"
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    BertTokenizerFast(vocab=vocabulary, model_max_length=64).save_pretrained(place)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(
        vocab_size=len(pieces), intermediate_size=32, max_position_embeddings=140_000, **sizes
    )
    BertModel(config).save_pretrained(place)
    return place


if __name__ == "__main__":
    main()
