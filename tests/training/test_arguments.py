"""Every argument that `training.hf` takes has its effect in clftask's own training."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from clftask.config.train import TrainJob
from clftask.config.trainer_arguments import TrainerArguments
from clftask.data.prepare import prepare, tokenise
from clftask.models.tokenizers import load_tokenizer
from clftask.training.trainer import ClassifierTrainer
from clftask.training.worker import Work, build_trainer


@pytest.fixture
def trainer(tmp_path, toy_table, tiny_base):
    table = toy_table(60)

    def build(**hf: Any) -> ClassifierTrainer:
        document = {
            "task": "multiclass",
            "data": {
                "train": str(table),
                "text": "text",
                "labels": {"kind": "class", "column": "label"},
            },
            "model": {"base": str(tiny_base), "max_length": 32},
            "training": {"epochs": 1, "batch_size": 8, "precision": "fp32", "hf": hf},
            "run": {"storage": str(tmp_path)},
        }
        job = TrainJob.load(document)
        prepared = prepare(job)
        tables = tokenise(prepared, load_tokenizer(str(tiny_base)), job.model)
        work = Work(job, str(tmp_path / "run"), tables, prepared.space.names, {}, "")
        return build_trainer(work, 1, "cpu", "fp32", str(tmp_path))

    return build


def effect_of_adam(name, value):
    def seen(trainer):
        option, place = {"adam_beta1": ("betas", 0), "adam_beta2": ("betas", 1)}.get(
            name, ("eps", None)
        )
        found = trainer.create_optimizer().defaults[option]
        return (found if place is None else found[place]) == value

    return seen


def logs_every_second_step(trainer):
    trainer.train()
    steps = [log["step"] for log in trainer.state.log_history if "loss" in log]
    return steps[:3] == [1, 2, 4]


def loads_the_same_batches_with_two_workers(trainer):
    loader = trainer.get_train_dataloader()
    assert (loader.num_workers, loader.persistent_workers) == (2, True)
    alone = torch.utils.data.DataLoader(
        loader.dataset, batch_sampler=loader.batch_sampler, collate_fn=loader.collate_fn
    )
    both = [[micro["input_ids"].tolist() for share in each for micro in share]
            for each in (loader, alone)]  # fmt: skip
    return both[0] == both[1] != []


EFFECTS = {
    "adam_beta1": (0.8, effect_of_adam("adam_beta1", 0.8)),
    "adam_beta2": (0.9, effect_of_adam("adam_beta2", 0.9)),
    "adam_epsilon": (1e-6, effect_of_adam("adam_epsilon", 1e-6)),
    "dataloader_num_workers": (2, loads_the_same_batches_with_two_workers),
    "logging_steps": (2, logs_every_second_step),
}


def test_workers_of_the_loader_live_for_all_epochs(trainer):
    loader = trainer(dataloader_num_workers=1).get_train_dataloader()
    workers, epochs = [], []
    for epoch in range(2):
        loader.set_epoch(epoch)
        epochs.append([micro["rows"].tolist() for share in loader for micro in share])
        workers.append({worker.pid for worker in loader._iterator._workers})
    assert workers[0] == workers[1]
    assert epochs[0] != epochs[1]
    plain = trainer().get_train_dataloader()
    assert (plain.num_workers, plain.persistent_workers) == (0, False)


def test_workers_do_not_send_constants_in_each_step(trainer):
    assert trainer().args.ddp_broadcast_buffers is False


@pytest.mark.parametrize("name", TrainerArguments.model_fields)
def test_has_its_effect(trainer, name):
    value, has_effect = EFFECTS[name]
    assert has_effect(trainer(**{name: value}))
