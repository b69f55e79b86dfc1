"""`import clftask`: quick, typed, and what it offers."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata, resources

from typer.testing import CliRunner

import clftask
from clftask.cli.main import app


def alone(code: str) -> str:
    """Run code in a fresh interpreter, return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_all_names_are_there_and_documented():
    assert clftask.__all__ == ["__version__", "load", "prevalence", "register"]
    assert clftask.load.__doc__
    assert clftask.prevalence.__doc__
    assert clftask.register.__doc__
    assert resources.files(clftask).joinpath("py.typed").is_file()


def test_one_version():
    assert metadata.version("clftask") == clftask.__version__
    shown = CliRunner().invoke(app, ["--version"])
    assert (shown.exit_code, shown.stdout) == (0, f"clftask {clftask.__version__}\n")


def test_import_loads_the_standard_library_alone():
    loaded = alone("import sys; before = set(sys.modules); import clftask\n"
                   "print(*{n.split('.')[0] for n in set(sys.modules) - before})")  # fmt: skip
    assert set(loaded.split()) - set(sys.stdlib_module_names) == {"clftask"}
