"""Decisions: logits to calibrated probabilities, labels and prediction sets."""
