"""Registers clftask's own model classes with transformers, whenever that is imported.

`import clftask` must be quick, and transformers takes seconds: so the classes are registered
at once only if transformers is there already, and else right after its model registry is
imported for the first time.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_REGISTRY = "transformers.models.auto.modeling_auto"


def register_when_needed() -> None:
    """Register now if transformers' registry is imported, else when it will be."""
    if _REGISTRY in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _AfterRegistry())


def _register() -> None:
    import clftask.models.mlp  # noqa: F401 (registers at its end)


class _AfterRegistry(MetaPathFinder):
    """Finds nothing itself: it lets the real finder load the registry, then registers."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Wrap the loader of the registry alone."""
        if name != _REGISTRY:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader)
        return spec


class _Then(Loader):
    """A loader that registers after the module has run."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module as the real loader does."""
        module: ModuleType | None = self.inner.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then register."""
        self.inner.exec_module(module)
        _register()
