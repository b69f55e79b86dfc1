"""Scoring on Ray actors."""
