"""The job files: train, tune and score."""
