"""Decisions: effect of calibration and thresholds on test metrics, over seeds and variants.

Each job is trained on samples of its train rows, one per seed. The logits of validation and
test are saved, so that decisions are fitted and compared without retraining. A variant is a
list of overrides of the job, such as another loss.

    python benchmarks/decide.py JOB.yaml [JOB.yaml …] [--rows 5000] [--held-out 4000] [--seeds 3]
                                [--keep FOLDER] [--variant "loss.kind=focal"]
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from clftask.components.decision.decision import DecisionSpec, cross_fitted
from clftask.components.metrics import compute
from clftask.config.train import TrainJob
from clftask.data.prepare import prepare, tokenise
from clftask.evaluation import evaluate
from clftask.evaluation.bootstrap import covered, headline
from clftask.evaluation.evaluate import Labelled
from clftask.models.base_checks import check_base
from clftask.training import worker

SHOWN = ("micro_f1", "macro_f1", "ece", "classwise_ece", "log_loss")
DECISIONS = {
    "multilabel": {
        "plain, 0.5": ({"calibration": "none", "threshold": 0.5}, "micro"),
        "temperature": ({"calibration": "temperature", "threshold": 0.5}, "micro"),
        "platt": ({"calibration": "platt", "threshold": 0.5}, "micro"),
        "auto, for micro": ({}, "micro"),
        "auto, for macro": ({}, "macro"),
        "one for macro": ({"threshold": "global"}, "macro"),
        "a label's own, not shrunk": (
            {"threshold": {"kind": "per_label", "shrinkage": 0}}, "macro",
        ),
    },
    "multiclass": {
        "plain": ({"calibration": "none"}, "micro"),
        "temperature": ({"calibration": "temperature"}, "micro"),
        "platt": ({"calibration": "platt"}, "micro"),
        "auto": ({}, "micro"),
    },
}  # fmt: skip


class Silent:
    """A sink that drops all records."""

    def post(self, record: dict) -> None:
        pass

    def report(self, metrics: dict) -> None:
        pass

    def is_leaving(self) -> bool:
        return False


def sampled(job: TrainJob, rows: int, held_out: int, seed: int):
    """Return the prepared data with samples of the train rows and of the held-out rows."""
    prepared = prepare(job)
    draw = np.random.default_rng(seed)
    sizes = {"train": (rows, draw), "validation": (held_out, np.random.default_rng(0))}
    sizes["test"] = sizes["validation"]
    tables = {}
    for split, table in prepared.tables.items():
        count, random = sizes[split]
        tables[split] = table.take(np.sort(random.permutation(table.num_rows)[:count]))
    return dataclasses.replace(prepared, tables=tables)


def train(job: TrainJob, rows: int, held_out: int, seed: int, file: Path) -> None:
    """Train in this process and save logits, targets and groups of the held-out rows."""
    prepared = sampled(job, rows, held_out, seed)
    tables = tokenise(prepared, check_base(job.model), job.model)
    data = {"fingerprint": prepared.fingerprint, "report": prepared.report.as_json()}
    kept: dict[str, Labelled] = {}
    decide = evaluate.decide

    def keeping(job, space, splits):
        kept.update(splits)
        return decide(job, space, splits)

    evaluate.decide = keeping
    with tempfile.TemporaryDirectory() as folder:
        work = worker.Work(job, folder, tables, prepared.space.names, data, "")
        worker.fit(work, Silent(), 0, 1, "cpu")
    evaluate.decide = decide
    arrays = {
        f"{split}_{name}": getattr(labelled, name)
        for split, labelled in kept.items()
        for name in ("logits", "targets", "groups")
        if getattr(labelled, name) is not None
    }
    np.savez_compressed(file, **arrays)


def load(file: Path) -> dict[str, Labelled]:
    found = np.load(file)
    return {
        split: Labelled(
            found[f"{split}_logits"],
            found[f"{split}_targets"],
            found.get(f"{split}_groups"),
        )
        for split in ("validation", "test")
    }


def on_test(task: str, splits: dict[str, Labelled], decision: dict, average: str) -> dict:
    """Fit a decision on validation and evaluate it on test."""
    held_out, test = splits["validation"], splits["test"]
    spec = DecisionSpec.load(decision)
    fitted = spec.fit(held_out.logits, held_out.targets, task, average, held_out.groups)
    outcome = fitted.apply(test.logits, task)
    return compute(outcome.probabilities, outcome.decided, test.targets, task, SHOWN)


def on_validation(task: str, splits: dict[str, Labelled], average: str) -> dict:
    """Evaluate the default decision on validation, cross-fitted."""
    rows = splits["validation"]
    found = cross_fitted(DecisionSpec(), rows.logits, rows.targets, task, average, rows.groups)
    return compute(found.probabilities, found.decided, rows.targets, task, SHOWN)


def coverage(task: str, splits: dict[str, Labelled], target: float = 0.9) -> str:
    held_out, test = splits["validation"], splits["test"]
    spec = DecisionSpec.load({"sets": {"kind": "conformal", "coverage": target}})
    fitted = spec.fit(held_out.logits, held_out.targets, task, "micro", held_out.groups)
    outcome = fitted.apply(test.logits, task)
    share = float(covered(outcome.sets, test.targets).mean())
    low, high = headline(outcome.decided, test.targets, test.groups, outcome.sets)["set_coverage"]
    size = outcome.sets.sum(1).mean()
    return f"{share:.3f} ({low:.3f} to {high:.3f}), {size:.1f} labels a set"


def show(title: str, rows: dict[str, list[dict]]) -> None:
    print(f"\n{title}: mean (standard deviation) over the seeds")
    print(f"{'':28s}" + "".join(f"{name:>18s}" for name in SHOWN))
    for name, found in rows.items():
        cells = []
        for metric in SHOWN:
            values = [figures[metric] for figures in found]
            spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
            cells.append(f"{np.mean(values):.4f} ({spread:.4f})")
        print(f"{name:28s}" + "".join(f"{cell:>18s}" for cell in cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jobs", nargs="+", type=Path)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--held-out", type=int, default=4000, help="most rows of either split")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--keep", type=Path, default=Path("logits"))
    parser.add_argument("--variant", action="append", help="overrides of the job; may be repeated")
    args = parser.parse_args()
    args.keep.mkdir(exist_ok=True)
    for file in args.jobs:
        by_variant = {}
        for variant in args.variant or [""]:
            splits = []
            for seed in range(args.seeds):
                job = TrainJob.load(file, [*variant.split(), f"seed={seed}"])
                mark = "".join(c if c.isalnum() else "_" for c in variant)
                kept = args.keep / f"{file.stem}-{args.rows}-{mark}-{seed}.npz"
                if not kept.exists():
                    train(job, args.rows, args.held_out, seed, kept)
                splits.append(load(kept))
            for average in ("micro", "macro"):
                name = f"{variant or 'the job'}, for {average}"
                by_variant[name] = [on_validation(job.task, s, average) for s in splits]
            found = {
                name: [on_test(job.task, s, decision, average) for s in splits]
                for name, (decision, average) in DECISIONS[job.task].items()
            }
            show(f"{file.stem} {variant}, test", found)
            for s in splits:
                print(f"coverage on test, 0.9 wanted: {coverage(job.task, s)}")
        show(f"{file.stem}, validation out of fold, default decision", by_variant)


if __name__ == "__main__":
    main()
