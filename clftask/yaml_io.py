"""Read and write YAML: 1.2 scalars, no duplicate keys, bounds on size and depth."""

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
# Aliases count as expanded: nine lines of aliases can expand to a billion values.
MAX_VALUES, MAX_DEPTH = 1_000_000, 50


def nested_values(data: Any) -> Iterator[Any]:
    """Yield data and everything nested in it: keys, values, items.

    Raises:
        ValueError: The number of values or the depth exceeds the limits of a job file.
    """
    num_values = 0
    levels = [iter([data])]
    while levels:
        for value in levels[-1]:
            num_values += 1
            if num_values > MAX_VALUES or len(levels) - 1 > MAX_DEPTH:
                most = f"{MAX_VALUES:,} values, aliases expanded"
                raise ValueError(
                    f"it has more than {most}, or is nested more than {MAX_DEPTH} deep"
                )
            yield value
            if isinstance(value, dict):
                levels.append(chain(value, value.values()))
                break
            if isinstance(value, list | tuple):
                levels.append(iter(value))
                break
        else:
            levels.pop()


_TAG = "tag:yaml.org,2002:"
# Plain data only: no dates, sets or bytes, which JSON does not have; no merge keys (`<<`), whose
# chains grow exponentially. PyYAML's constructor for the tag None rejects all other tags.
_CONSTRUCTED = (None, *(f"{_TAG}{kind}" for kind in ("null", "bool", "str", "seq", "map")))
# YAML 1.2; PyYAML's own resolvers follow 1.1, where `3e-5` is a string and `no` is false.
_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    "int": (r"[-+]?[0-9]+", [*"-+0123456789"]),
    "float": (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", [*"-+.0123456789"]),
    "merge": (r"<<", ["<"]),
}


class _Loader(yaml.SafeLoader):
    """Loads plain data with the scalars of YAML 1.2, and rejects duplicate keys."""

    yaml_implicit_resolvers = {}
    yaml_constructors = {tag: yaml.SafeLoader.yaml_constructors[tag] for tag in _CONSTRUCTED} | {
        f"{_TAG}int": lambda loader, node: int(loader.construct_scalar(node)),
        f"{_TAG}float": lambda loader, node: float(loader.construct_scalar(node)),
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; PyYAML's own method keeps the last of duplicate keys."""
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(None, None, "not a mapping", node.start_mark)
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            is_scalar = isinstance(key, str | int | float | bool | None)
            if not is_scalar or key in seen:
                problem = f"duplicate key {key!r}" if is_scalar else "a key must be a scalar"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes every string that `_Loader` would parse as another type."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


for _kind, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(f"^(?:{_pattern})$"), _first)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Quote the characters that are line breaks in YAML 1.1; PyYAML would fold them."""
    style = '"' if re.search("[\x85\u2028\u2029]", text) else None
    return dumper.represent_scalar(f"{_TAG}str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def to_yaml(data: Any) -> str:
    """Return plain data as YAML that `parse_yaml` reads back."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def parse_yaml(text: str | bytes, name: str) -> Any:
    """Parse YAML; an error names its source as `name`.

    Raises:
        ConfigError: The text is invalid YAML, uses other tags than those of plain data, or
            exceeds the limits.
    """
    try:
        found = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
        for _ in nested_values(found):
            pass
    except (yaml.YAMLError, ValueError, LookupError, RecursionError) as error:
        reason = re.sub(r' in "<(unicode|byte) string>"', "", " ".join(str(error).split()))
        raise ConfigError(Problem(name, None, f"must be plain YAML: {reason}")) from None
    return found


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that contains a mapping.

    Raises:
        ConfigError: The file is missing, is invalid YAML, or is not a mapping.
    """
    try:
        text = _read_text(path)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            Problem(
                str(path) or "job file",
                None,
                f"must be a readable job file: {reason}",
                "Check the path.",
            )
        ) from None
    return parse_job(text, str(path))


def parse_job(text: str | bytes, name: str) -> dict[str, Any]:
    """Parse YAML that contains a mapping.

    Raises:
        ConfigError: The text is invalid YAML, or is not a mapping.
    """
    document = parse_yaml(text, name)
    if not isinstance(document, dict):
        found = type(document).__name__
        raise ConfigError(Problem(name, found, "a job file must be a mapping of field: value"))
    return document


def _read_text(path: str | Path) -> str:
    """Read a file without blocking on a pipe that has no writer or on an endless device."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open(handle, "rb") as file:  # noqa: PTH123 (a file descriptor)
        os.set_blocking(handle, True)  # read a pipe with a writer to its end
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES >> 20} MB")
    return data.decode("utf-8-sig")
