"""Evaluation of a classifier on labelled rows."""
