"""The baseline: the tutorial's Trainer script with its defaults, in one process.

Reads train.parquet and validation.parquet (text, labels as lists of columns) from a folder
and prints one JSON line: samples per second of training, the validation micro-F1, and the peak
memory of the process.
"""

import argparse
import json
import resource
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from sklearn.metrics import f1_score
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base", required=True)
    parser.add_argument("--num-labels", type=int, required=True)
    parser.add_argument("--max-length", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
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

    model = AutoModelForSequenceClassification.from_pretrained(
        args.base, num_labels=args.num_labels, problem_type="multi_label_classification"
    )
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(args.folder / "plain"),
            per_device_train_batch_size=args.batch_size,
            num_train_epochs=args.epochs,
            learning_rate=args.learning_rate,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=read("train"),
        processing_class=tokenizer,
    )
    found = trainer.train().metrics
    validation = read("validation")
    logits = trainer.predict(validation).predictions
    decided = torch.from_numpy(logits).sigmoid().numpy() > 0.5
    score = f1_score(np.array(validation["labels"]), decided, average="micro")
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    speed = found["train_samples_per_second"]
    print(json.dumps({"samples_per_s": speed, "micro_f1": score, "peak_mb": peak_mb}))


if __name__ == "__main__":
    main()
