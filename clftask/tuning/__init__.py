"""Trials of a search: their records, their work, their report."""
