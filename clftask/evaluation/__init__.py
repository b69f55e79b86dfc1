"""Metrics of a classifier on labelled rows."""
