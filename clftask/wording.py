"""The words of messages."""

from __future__ import annotations


def counted(number: float, noun: str) -> str:
    """Return `1 row`, `1,000 rows` or `0.5 CPUs`."""
    shown = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{shown} {noun}" if number == 1 else f"{shown} {noun}s"


def are(number: float) -> str:
    """Return `is` or `are`."""
    return "is" if number == 1 else "are"
