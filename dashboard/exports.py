"""CSV files: streamed row by row, and safe to open in a spreadsheet."""

import csv
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from django.http import StreamingHttpResponse

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\N{FULLWIDTH EQUALS SIGN}", "\N{FULLWIDTH PLUS SIGN}",
                  "\N{FULLWIDTH HYPHEN-MINUS}", "\N{FULLWIDTH COMMERCIAL AT}")  # fmt: skip
CHUNK_CHARACTERS = 16_384


class _Echo:
    """A file for `csv.writer` that hands each line back."""

    def write(self, line: str) -> str:
        return line


def csv_answer(*, name: str, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> StreamingHttpResponse:
    """A download named `name`.csv: UTF-8, the header at once, then a line a row, sent as they are read, some at a time."""
    answer = StreamingHttpResponse(_lines(header, rows), content_type="text/csv; charset=utf-8")
    answer["Content-Disposition"] = f'attachment; filename="{name}.csv"'
    answer["Cache-Control"] = "no-store"
    return answer


def _lines(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    writer = csv.writer(_Echo())
    yield writer.writerow(list(header))
    lines, characters = [], 0
    for row in rows:
        lines.append(writer.writerow([cell(value) for value in row]))
        characters += len(lines[-1])
        if characters > CHUNK_CHARACTERS:
            yield "".join(lines)
            lines, characters = [], 0
    if lines:
        yield "".join(lines)


def cell(value: Any) -> str:
    """The value as a cell: instants as ISO 8601 in UTC, nothing as empty; text that a spreadsheet would run is quoted.

    Numbers stay numbers, a negative one included: only text is neutralised (OWASP, "CSV Injection").
    """
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    text = str(value)
    is_formula = isinstance(value, str) and text.lstrip(" \N{NO-BREAK SPACE}").startswith(FORMULA_STARTS)
    return f"'{text}" if is_formula else text
