"""Trials of a search: records, training, storage, report."""
