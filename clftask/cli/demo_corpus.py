"""A real labelled corpus that is part of boto3: the API models of AWS.

botocore contains the documentation of each operation of each service, its errors
(multilabel), its service (multiclass, or the group of a grouped split) and its HTTP method.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from typing import Any

import pyarrow as pa

MIN_ERROR_COUNT = 200
NUM_SERVICES = 30


def aws_operations() -> pa.Table:
    """Return every documented operation: service, name, method, text, errors (list)."""
    from botocore.loaders import Loader

    loader = Loader()
    rows = [
        _row(service, name, operation)
        for service in loader.list_available_services("service-2")
        for name, operation in _operations(loader, service).items()
    ]
    return pa.Table.from_pylist([row for row in rows if row["text"]])


def _operations(loader: Any, service: str) -> dict[str, Any]:
    operations: dict[str, Any] = loader.load_service_model(service, "service-2")["operations"]
    return dict(sorted(operations.items()))


def _row(service: str, name: str, operation: dict[str, Any]) -> dict[str, Any]:
    return {
        "service": service,
        "name": re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name),
        "method": operation.get("http", {}).get("method"),
        "text": plain_text(operation.get("documentation", "")),
        "errors": sorted({error["shape"] for error in operation.get("errors", [])}),
    }


def plain_text(markup: str) -> str:
    """Strip tags, decode entities, collapse whitespace."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", markup)).split())


def with_frequent_errors(operations: pa.Table) -> pa.Table:
    """Keep operations with at least one error that occurs in 200 operations or more."""
    return operations.filter(pa.array(_has_frequent_error(operations)))


def without_frequent_errors(operations: pa.Table) -> pa.Table:
    """Keep the operations without any of these errors."""
    return operations.filter(pa.array([not has for has in _has_frequent_error(operations)]))


def _has_frequent_error(operations: pa.Table) -> list[bool]:
    errors = operations["errors"].to_pylist()
    counts = Counter(error for row in errors for error in row)
    return [any(counts[error] >= MIN_ERROR_COUNT for error in row) for row in errors]


def of_large_services(operations: pa.Table) -> pa.Table:
    """Keep the operations of the services with the most operations."""
    services = operations["service"].to_pylist()
    largest = {name for name, _ in Counter(services).most_common(NUM_SERVICES)}
    return operations.filter(pa.array([name in largest for name in services]))


def sample(table: pa.Table, num_rows: int, seed: int) -> pa.Table:
    """Return a random sample of rows, in the original order."""
    import numpy as np

    chosen = np.random.default_rng(seed).permutation(table.num_rows)[:num_rows]
    return table.take(pa.array(np.sort(chosen)))
