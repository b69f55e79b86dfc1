"""The baseline: `Trainer.hyperparameter_search` with its Optuna backend, in one process.

Reads train.parquet and validation.parquet (text, labels as lists of columns) from a folder
and prints a JSON line for each evaluation: micro-F1 at the best of 19 global thresholds.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset
from sklearn.metrics import f1_score
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

THRESHOLDS = np.arange(0.05, 1.0, 0.05)


class PrintEvaluation(TrainerCallback):
    def on_evaluate(self, args, state, control, metrics=None, **_):
        found = {"epoch": state.epoch, "score": metrics["eval_micro_f1"]}
        print(json.dumps(found), flush=True)


def score(found) -> dict:
    probabilities = 1 / (1 + np.exp(-found.predictions))
    targets = found.label_ids
    scores = [
        f1_score(targets, probabilities > t, average="micro", zero_division=0) for t in THRESHOLDS
    ]
    return {"micro_f1": max(scores)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base", required=True)
    parser.add_argument("--num-labels", type=int, required=True)
    parser.add_argument("--max-length", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--low", type=float, required=True)
    parser.add_argument("--high", type=float, required=True)
    parser.add_argument("--batch-sizes", type=int, nargs="+", required=True)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.base)

    def encode(batch: dict) -> dict:
        found = dict(tokenizer(batch["text"], truncation=True, max_length=args.max_length))
        hot = np.zeros((len(batch["text"]), args.num_labels), np.float32)
        for i, codes in enumerate(batch["codes"]):
            hot[i, codes] = 1.0
        return {**found, "labels": hot.tolist()}

    def read(split: str) -> Dataset:
        table = pq.read_table(args.folder / f"{split}.parquet")
        rows = Dataset(table).rename_column("labels", "codes")
        return rows.map(encode, batched=True, remove_columns=["text", "codes"])

    def model():
        return AutoModelForSequenceClassification.from_pretrained(
            args.base, num_labels=args.num_labels, problem_type="multi_label_classification"
        )

    trainer = Trainer(
        model_init=model,
        args=TrainingArguments(
            output_dir=str(args.folder / "plain-search"),
            num_train_epochs=args.epochs,
            eval_strategy="epoch",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=read("train"),
        eval_dataset=read("validation"),
        processing_class=tokenizer,
        compute_metrics=score,
        callbacks=[PrintEvaluation()],
    )
    sizes = args.batch_sizes
    trainer.hyperparameter_search(
        direction="maximize",
        backend="optuna",
        n_trials=args.trials,
        hp_space=lambda trial: {
            "learning_rate": trial.suggest_float("learning_rate", args.low, args.high, log=True),
            "per_device_train_batch_size": trial.suggest_categorical(
                "per_device_train_batch_size", sizes
            ),
        },
        compute_objective=lambda metrics: metrics["eval_micro_f1"],
    )


if __name__ == "__main__":
    main()
