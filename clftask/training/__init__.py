"""Training on one worker: Trainer, callbacks, checkpoints, run folders."""
