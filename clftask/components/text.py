"""Build a row's text from its columns, for training and scoring alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, Field

from clftask.errors import DataError, Problem
from clftask.spec import Spec

if TYPE_CHECKING:
    import pyarrow as pa


def one_or_more(value: object) -> object:
    """Accept a single name as a list of one."""
    return [value] if isinstance(value, str) else value


_NAMES = BeforeValidator(one_or_more, json_schema_input_type=str | tuple[str, ...])
Names = Annotated[tuple[str, ...], _NAMES]
Columns = Annotated[tuple[str, ...], Field(min_length=1), _NAMES]


class TextRecipe(Spec):
    """Columns joined by a separator, and the second text of a pair task.

    Attributes:
        text: Columns to join; null and blank ones are skipped.
        text_pair: Column of the second text, None for single texts.
        separator: Text between joined columns.
    """

    text: Columns
    text_pair: str | None = None
    separator: str = "\n\n"

    @property
    def columns(self) -> list[str]:
        """All columns that the recipe uses."""
        return [*self.text, *([self.text_pair] if self.text_pair else [])]

    def apply(self, table: pa.Table) -> tuple[pa.ChunkedArray, pa.ChunkedArray | None]:
        """Build the texts of a table.

        Returns:
            text: (rows,) string, null where all columns are blank: such a row is bad.
            text_pair: (rows,) string, or None for single texts.

        Raises:
            DataError: A column does not contain strings.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        parts = [_blank_to_null(table, name) for name in self.text]
        text, separator = parts[0], pa.scalar(self.separator, pa.large_string())
        for part in parts[1:]:
            # pyarrow's null_handling="skip" drops rows in which all parts are null.
            text = pc.coalesce(pc.binary_join_element_wise(text, part, separator), text, part)
        return text, _blank_to_null(table, self.text_pair) if self.text_pair else None


def _blank_to_null(table: pa.Table, name: str) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table.column(name)
    if pa.types.is_null(column.type):
        return column.cast(pa.large_string())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        remedy = "Name a column of text, or convert this one."
        raise DataError(Problem(f"text column {name}", str(column.type), "must be strings", remedy))
    column = column.cast(pa.large_string())
    blank = pc.equal(pc.utf8_trim_whitespace(column), "")
    return pc.if_else(blank, pa.scalar(None, pa.large_string()), column)
