"""The features of a frozen encoder for all trials of a search. Without Ray."""

from __future__ import annotations

from clftask.io.tempdirs import temporary_folder
from clftask.training.features import Features, features_of
from clftask.training.work import Work
from clftask.training.worker import build_trainer
from clftask.tuning.trial_worker import with_local_base


def compute(work: Work, precision: str, device: str) -> tuple[Features | None, str]:
    """Run the frozen encoder of a trial over train and validation.

    Args:
        work: The trial's job and tokens.
        precision: The trial's precision, resolved.
        device: cpu or cuda.

    Returns:
        The features, None if the encoder has to run in each epoch; and what was done, or why.
    """
    lines: list[str] = []
    with temporary_folder() as scratch:
        trainer = build_trainer(with_local_base(work), 1, device, precision, scratch)
        found = features_of(trainer.inference, work.tables, lines.append)
    return found, lines[-1]
