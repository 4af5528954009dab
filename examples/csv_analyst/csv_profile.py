"""What the columns of a CSV table hold."""

import csv
import io
import math
from typing import Any

MAX_COLUMNS = 50
DELIMITERS = ",;\t|"


def run(csv_text: str) -> dict[str, Any]:
    """How many rows, what each column holds, and which columns a report would best stand on.

    `group_by` is the text column with the fewest different values that still repeat, `measure` the first
    number column with fractions, else the first, `label` the first text column that names each row
    differently; each is null where there is none.
    """
    rows = read(csv_text)
    columns = [describe(name, [row[name] for row in rows]) for name in list(rows[0])[:MAX_COLUMNS]]
    texts = [column for column in columns if column["kind"] == "text"]
    groups = [column for column in texts if 1 < column["distinct"] <= len(rows) / 2]
    numbers = [column for column in columns if column["kind"] == "number"]
    fractions = [column for column in numbers if column["fractions"]]
    labels = [column for column in texts if column["distinct"] == len(rows)]
    return {
        "rows": len(rows),
        "columns": columns,
        "group_by": min(groups, key=lambda column: column["distinct"])["name"] if groups else None,
        "measure": (fractions or numbers)[0]["name"] if numbers else None,
        "label": labels[0]["name"] if labels else None,
    }


def read(text: str) -> list[dict[str, str]]:
    """The rows by column name; ValueError when there are none."""
    text = text.removeprefix("\ufeff")
    header = text.split("\n", 1)[0]
    delimiter = max(DELIMITERS, key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="")
    rows = [{key: value.strip() for key, value in row.items() if key is not None} for row in reader]
    if not rows:
        raise ValueError("the table has no rows below its header")
    return rows


def describe(name: str, cells: list[str]) -> dict[str, Any]:
    """One column: how many values are missing and different, and the range of its numbers."""
    present = [cell for cell in cells if cell]
    column = {"name": name, "missing": len(cells) - len(present), "distinct": len(set(present))}
    numbers = as_numbers(present)
    if not numbers:
        return {**column, "kind": "text"}
    return {
        **column,
        "kind": "number",
        "fractions": any(not number.is_integer() for number in numbers),
        "min": min(numbers),
        "max": max(numbers),
        "mean": sum(numbers) / len(numbers),
    }


def as_numbers(cells: list[str]) -> list[float]:
    """The cells as finite numbers; empty when one of them is none."""
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError:
        return []
    return numbers if all(math.isfinite(number) for number in numbers) else []
