"""A CSV table in groups."""

import csv
import io
from typing import Any

MAX_GROUPS = 100
DELIMITERS = ",;\t|"


def run(
    csv_text: str, group_by: str | None = None, measure: str | None = None, label: str | None = None
) -> dict[str, Any]:
    """The rows of each value of `group_by`, most rows first, with mean and largest value of `measure`."""
    groups: dict[str, list[dict[str, str]]] = {}
    for row in read(csv_text):
        groups.setdefault(cell(row, group_by) if group_by else "all rows", []).append(row)
    found = [
        {"value": value, "rows": len(rows), **measured(rows, measure, label)}
        for value, rows in groups.items()
    ]
    found.sort(key=lambda group: (-group["rows"], group["value"]))
    return {"groups": found[:MAX_GROUPS], "left_out": max(0, len(found) - MAX_GROUPS)}


def read(text: str) -> list[dict[str, str]]:
    """The rows by column name, as csv_profile reads them; a tool is one file, so each has its own."""
    text = text.removeprefix("\ufeff")
    header = text.split("\n", 1)[0]
    delimiter = max(DELIMITERS, key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="")
    return [{key: value.strip() for key, value in row.items() if key is not None} for row in reader]


def cell(row: dict[str, str], column: str) -> str:
    """One cell; ValueError names the columns there are."""
    if column not in row:
        raise ValueError(f"there is no column {column!r}; there are {', '.join(row)}")
    return row[column]


def measured(rows: list[dict[str, str]], measure: str | None, label: str | None) -> dict[str, Any]:
    """Mean and largest value of a number column, and the row that holds it; empty without numbers."""
    if not measure:
        return {}
    numbers = [(float(cell(row, measure)), row) for row in rows if cell(row, measure)]
    if not numbers:
        return {}
    largest, holder = max(numbers, key=lambda pair: pair[0])
    return {
        "mean": sum(number for number, _ in numbers) / len(numbers),
        "largest": largest,
        "holder": holder[label] if label else "",
    }
