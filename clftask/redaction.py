"""Mask secrets in everything that is shown, logged or stored."""

from __future__ import annotations

import re
from typing import Any

# The value after a name such as aws_secret_access_key in a path, a query or printed data; but not
# prose: in "prints its token: paste it into", an article or a pronoun follows.
_NAMED = re.compile(
    r"(?i)((?:secret|passw(?:or)?d|passphrase|\bpwd|credential|signature"
    r"|(?:api|access|account|private|shared|ssh|encryption)_?key"
    r"|\btoken|[_-]token|(?<=[?&])sig)"
    r"(?:[_-]\w+)?['\"]?\s*(?:=|:(?!\s(?-i:[a-z])+ (?:it|them|the|a|an|your|this)\b))\s*)"
    r"(?:'[^']*'|\"[^\"]*\"|[^\s'\"&,;}\])]+)"
)
_HEADER = re.compile(
    r"(?i)(\bauthorization['\"]?\s*[=:]\s*['\"]?(?:\w+ )?|\bbearer )[^\s'\",;]{6,}"
)
# Secrets that are known by their form: Hugging Face, GitHub, OpenAI, AWS, Slack, JSON Web Tokens.
_BY_FORM = re.compile(
    r"\b(?:hf_(?:[A-Za-z0-9]{16,}|(?=[a-z]*[A-Z0-9])[A-Za-z0-9]{8,})|gh[pousr]_[A-Za-z0-9]{20,}"
    r"|github_pat_\w{20,}|sk-(?:[a-z]+-)?[A-Za-z0-9]{20,}|A(?:KIA|SIA)[A-Z0-9]{16}"
    r"|xox[abprs]-[A-Za-z0-9-]{10,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)"
)
_IN_URL = re.compile(r"(://)[^\s@:/'\"]{0,300}:[^\s@'\"]{0,300}@|(https?://)[^\s/@'\"]{0,300}@")
_PORT = re.compile(r"://[^\s@:/'\"]+:\d{1,5}/")
MASK, MAX_CHARS = "***", 10_000


def masked(text: str) -> str:
    """Return a text with user and password of URLs and the values of secrets masked.

    Very long texts are cut: names in tables may be megabytes.
    """
    text = _IN_URL.sub(rf"\1\2{MASK}@", text[: 2 * MAX_CHARS])
    text = _BY_FORM.sub(MASK, _HEADER.sub(rf"\1{MASK}", text))
    text = _NAMED.sub(rf"\1{MASK}", text)
    return text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}…"


def holds_secret(url: str) -> bool:
    """Tell whether a URL contains a password, or a token in its query."""
    _, mark, query = url.partition("?")
    has_user = _IN_URL.search(url) and not _PORT.search(url)
    return bool(has_user or _NAMED.search(mark + query))


def _masked_value(value: Any, name: str = "") -> Any:
    """Return a value with secrets masked; `name` is the field that contains it."""
    if value is not None and re.fullmatch(r"[\w-]+", name) and _NAMED.search(f"{name}=x"):
        return MASK
    if isinstance(value, list | tuple):
        return [_masked_value(inner) for inner in value]
    if isinstance(value, dict):
        return {key: _masked_value(inner, str(key)) for key, inner in value.items()}
    return masked(value) if isinstance(value, str) else value
