"""Text formatting for messages."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# Control characters; bidirectional overrides (but not the marks of right-to-left scripts);
# lone surrogates, which UTF-8 cannot encode.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def counted(number: float, noun: str) -> str:
    """Return `1 row`, `1,000 rows` or `0.5 CPUs`."""
    shown = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{shown} {noun}" if number == 1 else f"{shown} {noun}s"


def are(number: float) -> str:
    """Return `is` or `are`."""
    return "is" if number == 1 else "are"


def first_line(error: BaseException) -> str:
    """Return the type of an error and the first line of its message, up to 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *lines[:1]])[:300]


def range_text(low: float, high: float) -> str:
    """Return an interval: `0.716–0.917`."""
    return f"{low:.3f}–{high:.3f}"


def printable(text: str) -> str:
    """Return the text with control characters escaped, so that it cannot control a terminal."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a remedy with the known name that is closest, or an empty string."""
    by_folded = {other.strip().casefold(): other for other in known}
    close = difflib.get_close_matches(name.strip().casefold(), by_folded, n=1)
    return f"Did you mean {shown_label(by_folded[close[0]])}?" if close else ""


def shown_label(name: str) -> str:
    """Return a label's name, quoted if it begins or ends with a blank."""
    return name if name == name.strip() else repr(name)
