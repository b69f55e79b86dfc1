"""A clock that does not depend on the machine."""

from __future__ import annotations


class Ticks:
    """A clock that advances by a second at each reading."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 1.0
        return self.seconds
