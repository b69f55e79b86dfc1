"""Base class of job files, which are frozen pydantic models: load, override, fingerprint."""

from __future__ import annotations

import hashlib
import json
import math
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import core_schema

from clftask.errors import ConfigError, Problem
from clftask.messages import counted, did_you_mean
from clftask.redaction import masked
from clftask.yaml_io import nested_values, parse_yaml, read_yaml, to_yaml


class Spec(BaseModel):
    """Base class of every section of a job file: frozen, extra keys forbidden."""

    # What to do in place of a field that users may expect here, by its name.
    INSTEAD: ClassVar[Mapping[str, str]] = {}

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )

    @model_validator(mode="before")
    @classmethod
    def _no_bool_as_number(cls, data: Any) -> Any:
        """Make true and false invalid as numbers: pydantic reads them as 1 and 0."""
        if not isinstance(data, dict):
            return data
        return {
            name: str(value).lower() if isinstance(value, bool) and cls._is_number(name) else value
            for name, value in data.items()
        }

    @classmethod
    def _is_number(cls, name: Any) -> bool:
        """Tell whether a field takes numbers, but neither booleans nor text."""
        field = cls.model_fields.get(name) if isinstance(name, str) else None
        expected = {field.annotation, *_members(field.annotation)} if field else set()
        types = [found for found in expected if isinstance(found, type)]
        is_number = any(issubclass(found, int | float) for found in types)
        return is_number and not expected & {bool, str, Any}

    @classmethod
    def load(cls, source: str | Path | Mapping[str, Any], overrides: Iterable[str] = ()) -> Self:
        """Read a spec: defaults, then the YAML file (or mapping), then `path=value` overrides.

        Raises:
            ConfigError: Lists all mistakes, each with its dotted path.
        """
        document = dict(source) if isinstance(source, Mapping) else read_yaml(source)
        _apply_overrides(cls, document, overrides)
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise ConfigError(*_problems(cls, document, error)) from None

    def dump(self) -> dict[str, Any]:
        """Return plain data that YAML and JSON can represent."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """Return the spec as YAML that `load` reads back."""
        return to_yaml(self.dump())


def fingerprint(data: Any) -> str:
    """Return the first 16 hex digits of the SHA-256 of `data` as canonical JSON."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def bare_kind(value: Any) -> Any:
    """Expand a bare name to `{kind: name}`, so that `loss: bce` works."""
    return {"kind": value} if isinstance(value, str) else value


class BareKind:
    """Annotates a union on `kind`: validation and JSON schema also accept the bare kind."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return core_schema.no_info_before_validator_function(bare_kind, handler(source))

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> Any:
        found = handler(core)
        kinds = list(found.get("discriminator", {}).get("mapping", {}))
        return {"anyOf": [found, {"type": "string", "enum": kinds}]}


def _plain_data(data: dict[str, Any]) -> dict[str, Any]:
    for value in nested_values(data):
        is_finite = not isinstance(value, float) or math.isfinite(value)
        is_text = not isinstance(value, str) or not re.search(r"[\ud800-\udfff]", value)
        is_known = value is None or isinstance(value, str | int | float | dict | list | tuple)
        if not (is_known and is_finite and is_text):
            raise ValueError("must be JSON data: text, finite numbers, lists, mappings")
    return data


_MAX_PLACES, _MAX_DEPTH = 3, 2  # of a suggestion
# For fields that are validated elsewhere, or only stored.
PlainData = Annotated[dict[str, Any], AfterValidator(_plain_data)]


def _apply_overrides(cls: type[Spec], document: dict[str, Any], overrides: Iterable[str]) -> None:
    """Apply all overrides; report all mistakes at once."""
    mistakes: list[Problem] = []
    for override in overrides:
        try:
            _apply_override(cls, document, override)
        except ConfigError as error:
            mistakes += error.problems
    if mistakes:
        raise ConfigError(*mistakes)


def _default_kind(cls: Any, parents: list[str]) -> dict[str, Any]:
    """Return the default kind at a path, so that an override can set one of its fields."""
    default: Any = None
    for parent in parents:
        field = cls.model_fields.get(parent) if _is_spec(cls) else None
        if field is None:
            return {}
        default = field.get_default(call_default_factory=True)
        cls = type(default) if isinstance(default, BaseModel) else field.annotation
    kind = getattr(default, "kind", None)
    return {} if kind is None else {"kind": kind}


def _apply_override(cls: type[Spec], document: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not is_path(path):
        allowed, remedy = "an override is field.path=value", "Write it as training.epochs=3."
        raise ConfigError(Problem(override or "''", None, allowed, remedy))
    try:
        value = parse_yaml(text, override)
    except ConfigError as error:
        if not text.startswith(("{", "[")) or text.endswith(("}", "]")):
            raise
        remedy = f"In a shell, put an override that contains spaces in quotes: '{path}=…'."
        raise ConfigError(*(replace(p, remedy=remedy) for p in error.problems)) from None
    put(cls, document, path, value)


def is_path(text: str) -> bool:
    """Tell whether a text is a dotted path of fields."""
    return re.fullmatch(r"[\w-]+(\.[\w-]+)*", text) is not None


def put(cls: type[Spec], document: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a dotted path of a job document, in place.

    Raises:
        ConfigError: A parent in the path has no fields.
    """
    *parents, last = path.split(".")
    node = document
    for depth, parent in enumerate(parents, 1):
        child = node.get(parent)
        child = bare_kind(child) if child is not None else _default_kind(cls, parents[:depth])
        if not isinstance(child, dict):
            raise ConfigError(Problem(path, child, f"{parent} has no fields to override"))
        node[parent] = node = dict(child)
    node[last] = value


def _problems(cls: type[Spec], document: Any, error: ValidationError) -> list[Problem]:
    """Return one problem per field: pydantic reports an error for each member of a union."""
    by_path: dict[str, list[Problem]] = {}
    for details in error.errors():
        problem = _problem(cls, document, details)
        known = by_path.setdefault(problem.path, [])
        if problem.allowed not in [other.allowed for other in known]:
            known.append(problem)
    return [_joined(problems) for problems in by_path.values()]


def _joined(problems: list[Problem]) -> Problem:
    """Return the problems of a union's members as one."""
    first, *others = problems
    own = [problem.allowed.removeprefix("must be ") for problem in others]
    remedy = next((problem.remedy for problem in problems if problem.remedy), "")
    return replace(first, allowed=" or ".join([first.allowed, *own]), remedy=remedy)


# What is allowed, in place of pydantic's words; names in braces are of the error's context.
_ALLOWED = {
    "int_type int_parsing int_from_float int_parsing_size": "must be a whole number",
    "float_type float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type bool_parsing": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "string_unicode": "must be valid text",
    "string_pattern_mismatch": "must match the pattern {pattern}",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be greater than or equal to {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be less than or equal to {le}",
    "literal_error enum": "must be {expected}",
    "tuple_type list_type": "must be a list",
    "dict_type mapping_type": "must be a mapping",
    "dict_attributes_type model_attributes_type model_type": "must be a mapping",
    "invalid_key": "must have text as its keys",
    "too_short": "must have at least {min_length}",
    "too_long": "must have at most {max_length}",
    "none_required": "must be null",
    "byte_size byte_size_unit": "must be a size such as 500MB or 5GB",
    "recursion_loop": "must not contain itself",
}
_BY_TYPE = {name: text for names, text in _ALLOWED.items() for name in names.split()}


def _problem(cls: type[Spec], document: Any, error: Any) -> Problem:
    kind, found, context = error["type"], error["input"], error.get("ctx", {})
    loc = _field_path(document, error["loc"], kind == "missing") or "job"
    kinds = ", ".join(map(repr, _kinds(cls, error["loc"])))
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = found.get("kind") if isinstance(found, dict) else found
        kinds = context.get("expected_tags", kinds)
        return Problem(f"{loc}.kind", _plain(tag), f"kind must be one of {kinds}")
    if kind == "extra_forbidden":
        section = _spec_at(cls, error["loc"][:-1])
        remedy = _remedy_for_unknown(cls, section, loc, str(error["loc"][-1]))
        return Problem(loc, _plain(found), "is not a field of the job file", remedy)
    if kind == "missing":
        return Problem(loc, None, "is required", "Add it to the job file.")
    cause = context.get("error")
    if isinstance(cause, ValueError):
        message, _, remedy = str(cause).partition("; ")
        return Problem(loc, None if isinstance(found, Mapping) else _plain(found), message, remedy)
    context = {k: f"{v:g}" if isinstance(v, float) else v for k, v in context.items()}
    context |= {k: counted(v, "item") for k, v in context.items() if k.endswith("_length") and v}
    allowed, remedy = _BY_TYPE.get(kind, error["msg"]).format(**context), ""
    if kind == "model_attributes_type" and kinds:
        allowed = f"must be one of {kinds}, or a mapping with such a kind"
    elif kind in ("model_type", "model_attributes_type"):
        allowed, remedy = _mapping_of(_spec_at(cls, error["loc"]))
    elif isinstance(found, bool | int | float) and kind in ("string_type", "tuple_type"):
        remedy = "Put it in quotes." if kind == "string_type" else f'Write ["{found}"].'
    if kind.startswith(("model", "dict")) and _takes_null(cls, error["loc"]):
        allowed += ", or null"
    if found is None:
        remedy = remedy if _is_required(cls, error["loc"]) else "Remove it to use the default."
    return Problem(loc, "null" if found is None else _plain(found), allowed, remedy)


def _kinds(cls: Any, loc: Iterable[str | int]) -> list[str]:
    """Return the kinds of the family at `loc`; empty if there is none."""
    for part in loc:
        cls = _step(cls, part) or cls
    members = [member for member in _members(cls) if _is_spec(member)]
    defaults = [m.model_fields["kind"].default for m in members if "kind" in m.model_fields]
    return list(dict.fromkeys(defaults))


def _field_at(cls: Any, loc: tuple[str | int, ...]) -> Any:
    """Return the field at `loc`, None if it is inside a union."""
    section = _spec_at(cls, loc[:-1])
    return section.model_fields.get(str(loc[-1])) if section and loc else None


def _is_required(cls: Any, loc: tuple[str | int, ...]) -> bool:
    field = _field_at(cls, loc)
    return field is None or bool(field.is_required())


def _takes_null(cls: Any, loc: tuple[str | int, ...]) -> bool:
    field = _field_at(cls, loc)
    return field is not None and type(None) in _members(field.annotation)


def _mapping_of(spec: type[BaseModel] | None) -> tuple[str, str]:
    """Return what a section must be, and an example of it."""
    if spec is None:
        return "must be a mapping of fields", ""
    fields = {field.alias or name: field for name, field in spec.model_fields.items()}
    first = next(iter(fields))
    is_plain = isinstance(fields[first].default, int | float)
    remedy = f"For example {{{first}: {fields[first].default}}}." if is_plain else ""
    return f"must be a mapping of its fields: {', '.join(fields)}", remedy


def _plain(value: Any) -> Any:
    """Return `value` if it is short plain data, else a shortened text of it."""
    if isinstance(value, float | bool | None):
        return value
    try:
        data = value.dump() if isinstance(value, Spec) else value
        text = data if isinstance(data, str) else repr(data)
    except (RecursionError, ValueError):  # Python limits the digits of integers in text
        text = type(value).__name__
    is_short = isinstance(value, int) and len(text) <= 200
    text = masked(text)
    return value if is_short else text if len(text) <= 200 else text[:200] + "…"


def _field_path(document: Any, loc: tuple[str | int, ...], is_missing: bool) -> str:
    """Return the dotted path without the union tags that pydantic inserts.

    Only the last part of the path of a missing field is not in the document.
    """
    parts: list[str] = []
    node, is_tagged = document, False
    for depth, part in enumerate(loc, 1):
        union = bare_kind(node)
        if not is_tagged and isinstance(union, dict) and union.get("kind") == part:
            node, is_tagged = union, True
            continue
        if isinstance(node, dict) and (part in node or (is_missing and depth == len(loc))):
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
        else:
            continue
        parts.append(str(part))
        is_tagged = False
    return ".".join(parts)


def _spec_at(cls: Any, loc: Iterable[str | int]) -> type[BaseModel] | None:
    """Return the spec at `loc`, following unions by their tag."""
    for part in loc:
        cls = _step(cls, part)
    return next((member for member in (cls, *_members(cls)) if _is_spec(member)), None)


def _remedy_for_unknown(job: type[Spec], section: Any, path: str, name: str) -> str:
    """Return what to use in place of a field that a section does not have."""
    plain = name.replace("-", "_").lstrip("_")
    for spec in (section, job):
        if instead := getattr(spec, "INSTEAD", {}).get(plain):
            return str(instead)
    names = sorted(f.alias or n for n, f in section.model_fields.items()) if section else []
    places = sorted(_places(job, plain) - {path})
    if places and len(places) <= _MAX_PLACES:
        return f"Use {' or '.join(places)}."
    return did_you_mean(name, names) or f"Known fields: {', '.join(names)}."


def _places(cls: Any, name: str, path: str = "") -> set[str]:
    """Return the paths of all fields of a name, at most two sections deep."""
    found: set[str] = set()
    for field, info in cls.model_fields.items():
        place = f"{path}{info.alias or field}"
        if field == name and path:
            found.add(place)
        for member in (info.annotation, *_members(info.annotation)):
            if _is_spec(member) and place.count(".") < _MAX_DEPTH:
                found |= _places(member, name, f"{place}.")
    return found


def _is_spec(cls: Any) -> bool:
    return isinstance(cls, type) and issubclass(cls, BaseModel)


def _step(cls: Any, part: str | int) -> Any:
    if _is_spec(cls) and part in cls.model_fields:
        return cls.model_fields[part].annotation
    members = [cls, *_members(cls)]
    for member in members:
        if _is_spec(member) and getattr(member, "TAG", None) == part:  # a union without kinds
            return member
        if _is_spec(member) and "kind" in member.model_fields:
            if member.model_fields["kind"].default == part:
                return member
        elif _is_spec(member) and part in member.model_fields:
            return member.model_fields[part].annotation
    return None


def _members(annotation: Any) -> list[Any]:
    """Return the classes inside a (nested) union or Annotated."""
    found: list[Any] = []
    for argument in typing.get_args(annotation):
        found += [argument, *_members(argument)]
    return found
