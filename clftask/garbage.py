"""Garbage collection in processes that import torch, transformers and Ray.

The objects of imported modules are never garbage, but Python visits all of them many times during
the imports (15 to 20 % of their time), before each training, and when the process exits (2 s).
"""

from __future__ import annotations

import functools
import gc


def collect_rarely() -> None:
    """Collect after 50,000 new objects instead of 700; to be called before the imports."""
    gc.set_threshold(50_000, 20, 100)


@functools.cache
def freeze_imports() -> None:
    """Leave what is imported out of all further garbage collections of this process.

    Cached, so that later garbage is not frozen, e.g. an earlier training.
    """
    gc.freeze()
