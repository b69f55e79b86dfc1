"""Garbage collection in processes that import torch, transformers and Ray.

The objects of imported modules are never garbage, but Python visits all of them during the imports
and once more when the process exits. Measured: 15 to 20 % of the imports, and 2 s at the exit.
"""

from __future__ import annotations

import gc


def collect_rarely() -> None:
    """Collect after 50,000 new objects instead of 700; to be called before the imports."""
    gc.set_threshold(50_000, 20, 100)


def exit_without() -> None:
    """Leave all objects uncollected; to be called before the process exits."""
    gc.freeze()
