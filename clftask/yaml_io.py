"""YAML in and out: 1.2 scalars, no key twice, bounds on what a file may hold."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from clftask.errors import ConfigError, Problem

MAX_BYTES = 4 << 20  # of a job file
# Of what it holds: nine lines of aliases make a billion values.
MAX_VALUES, MAX_DEPTH = 1_000_000, 50


def _values(data: Any) -> Iterator[Any]:
    """Yield data and all that it holds.

    Raises:
        ValueError: That is more, or nested deeper, than a file may hold.
    """
    waiting = [(data, 0)]
    for _ in range(MAX_VALUES):
        if not waiting:
            return
        value, depth = waiting.pop()
        yield value
        inner = chain(value, value.values()) if isinstance(value, dict) else value
        if isinstance(value, dict | list | tuple):
            waiting += [(one, depth + 1) for one in inner]
        if depth > MAX_DEPTH:
            break
    if waiting:
        most = f"{MAX_VALUES:,} values, aliases written out"
        raise ValueError(f"it holds more than {most}, or is nested more than {MAX_DEPTH} deep")


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: `3e-5` is a number, `yes` and `no` are strings; no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping and refuse a key that stands twice."""
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(None, None, "is no mapping", node.start_mark)
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None) or key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice or is no name", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}


# No others: dates, sets and bytes are no JSON, and building them may fail in many ways.
_Loader.yaml_constructors = {
    tag: build
    for tag, build in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in ("null", "bool", "str", "seq", "map")
}


def _number(kind: type[int] | type[float]) -> Any:
    return lambda loader, node: kind(loader.construct_scalar(node))


class _Dumper(yaml.SafeDumper):
    """Quotes every string that `_Loader` would read as something else."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Quote what YAML takes for ends of lines, and would fold."""
    style = '"' if re.search("[\x85\u2028\u2029]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def parse_yaml(text: str | bytes, name: str) -> Any:
    """Parse YAML; `name` stands in the message when it is not YAML.

    Raises:
        ConfigError: The text is not YAML, holds a tag that would build an object, or more than
            a job can.
    """
    try:
        found = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
        for _ in _values(found):
            pass
    except (yaml.YAMLError, ValueError, LookupError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(Problem(name, None, f"must be plain YAML: {reason}")) from None
    return found


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ConfigError: The file is missing, is not YAML, or holds something else.
    """
    try:
        text = _read_text(path)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            Problem(str(path), None, f"must be a readable job file: {reason}", "Check the path.")
        ) from None
    return parse_job(text, str(path))


def parse_job(text: str | bytes, name: str) -> dict[str, Any]:
    """Parse YAML that holds a mapping.

    Raises:
        ConfigError: It is not YAML, or holds something else.
    """
    document = parse_yaml(text, name)
    if not isinstance(document, dict):
        found = type(document).__name__
        raise ConfigError(Problem(name, found, "a job file is a mapping of field: value"))
    return document


def _read_text(path: str | Path) -> str:
    """Read a file; neither a pipe that nobody writes to nor a device without end holds it up."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open(handle, "rb") as file:  # noqa: PTH123 (a pipe that somebody writes to is waited for)
        os.set_blocking(handle, True)
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES >> 20} MB")
    return data.decode("utf-8-sig")
