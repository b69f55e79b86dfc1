"""The rules of the house: imports go down, Ray stays in distributed/, sizes stay small.

A new package must be placed on a floor here before anything else passes.
"""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "clftask"

# From the ground up: a package imports from its own floor and from those below.
FLOORS = """
    messages array_types garbage
    redaction
    errors
    logs yaml_io
    spec
    io
    components
    config
    evaluation
    data
    models
    scoring
    report
    training
    tuning
    commands
    estimate
    distributed
    __init__
    cli
    __main__
"""
ORDER = [line.split() for line in FLOORS.strip().splitlines()]
PLACE = {name: floor for floor, names in enumerate(ORDER) for name in names}

# What strategy families may know of each other: the labels of a task, the counts that metrics and
# thresholds share, and what a metric applies.
KNOWN_TO_ALL = {"labels", "counts"}
KNOWN_BETWEEN_FAMILIES = {("metrics", "decision")}

# Imports ray inside its build functions, never at the top.
MAY_BUILD_WITH_RAY = "components.search"
HEAVY = "torch transformers ray pandas evaluate pyarrow sklearn datasets boto3 botocore numpy"
MAX_MODULE_LINES, MAX_FUNCTION_LINES = 400, 40
EMPTY_NAMES = {"utils", "helpers", "common", "manager", "misc", "util", "helper"}


@cache
def modules():
    """Return each module's dotted name below clftask, and its source."""
    paths = {p: p.relative_to(ROOT).with_suffix("") for p in sorted(ROOT.rglob("*.py"))}
    names = {path: ".".join(relative.parts) for path, relative in paths.items()}
    return {
        name if name == "__init__" else name.removesuffix(".__init__"): path.read_text()
        for path, name in names.items()
    }


def imported(tree):
    """Return every absolute name that a tree imports; `from a import b` gives a.b."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write absolute imports"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@cache
def edges():
    """Return (importer, imported) pairs of modules below clftask."""
    found = set()
    for name, source in modules().items():
        for target in imported(ast.parse(source)):
            parts = target.split(".")
            if parts[0] != "clftask":
                continue
            own = [".".join(parts[1:end]) for end in range(len(parts), 1, -1)]
            known = next((module for module in own if module in modules()), "__init__")
            found.add((name, known))
    return found


def top(module):
    return module.split(".")[0]


def family(module):
    return module.split(".")[1]


def test_every_module_has_a_place():
    assert {top(name) for name in modules()} == PLACE.keys()


def test_the_reader_sees_imports_at_the_top_in_functions_and_for_types():
    assert ("cli.main", "cli.job_runners") in edges()
    assert ("models.loading", "models.mlp") in edges()
    assert ("distributed.train.driver", "distributed.session") in edges()


def test_imports_go_down():
    assert [(a, b) for a, b in sorted(edges()) if PLACE[top(a)] < PLACE[top(b)]] == []


def test_families_know_nothing_of_each_other():
    inside = {(a, b) for a, b in edges() if top(a) == top(b) == "components"}
    between = {(family(a), family(b)) for a, b in inside if family(a) != family(b)}
    assert {(a, b) for a, b in between if b not in KNOWN_TO_ALL} <= KNOWN_BETWEEN_FAMILIES


def test_there_is_no_circle():
    below = {name: {b for a, b in edges() if a == name} for name in modules()}
    while leaves := {name for name, needs in below.items() if not needs & below.keys()}:
        below = {name: needs for name, needs in below.items() if name not in leaves}
    assert below == {}


def ray_imports(nodes):
    return {name for node in nodes for name in imported(node) if top(name) == "ray"}


def test_ray_stays_in_distributed():
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found = {}
    for name in (name for name in modules() if top(name) != "distributed"):
        tree = ast.parse(modules()[name])
        is_allowed = name.startswith(MAY_BUILD_WITH_RAY)
        nodes = [n for n in tree.body if not isinstance(n, functions)] if is_allowed else [tree]
        found[name] = ray_imports(nodes)
    assert {name: names for name, names in found.items() if names} == {}


def test_modules_are_small():
    lengths = {name: len(source.splitlines()) for name, source in modules().items()}
    assert {n: length for n, length in lengths.items() if length > MAX_MODULE_LINES} == {}


def test_functions_are_small():
    lengths = {
        f"{name}.{node.name}": node.end_lineno - node.lineno + 1
        for name, source in modules().items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {n: length for n, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


def test_modules_are_named_for_what_is_in_them():
    words = {word for name in modules() for part in name.split(".") for word in part.split("_")}
    assert words & EMPTY_NAMES == set()


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_help_loads_nothing_heavy(arguments):
    code = f"""
import sys
from clftask.cli.main import main
try:
    main({arguments})
except SystemExit as ended:
    assert not ended.code
print("loaded:", *sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    shown, _, loaded = done.stdout.rpartition("loaded:")
    assert "Usage" in shown
    assert "clftask.cli.main" in loaded.split()
    assert {top(name) for name in loaded.split()} & set(HEAVY.split()) == set()


def test_a_training_does_not_load_what_only_other_jobs_need():
    code = """
import sys
from clftask.cli.job_runners import job_runner
job_runner("train")
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    others = {"ray.tune", "clftask.distributed.tune.driver", "clftask.distributed.score.driver"}
    assert "clftask.distributed.train.driver" in done.stdout.split()
    # Data are read and refused before torch is imported.
    assert set(done.stdout.split()) & (others | {"torch", "transformers"}) == set()
