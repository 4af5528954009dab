"""Figures and how they are shown."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure.

    `floor` is what the same machine needs at least, in the same unit, taken in the same run.
    """

    what: str
    load: str  # "idle" or "saturated"
    value: float
    unit: str
    floor: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The value as a multiple of its floor."""
        return self.value / self.floor if self.floor else None

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {**asdict(self), "ratio": self.ratio}


def table(rows: Sequence[Row]) -> str:
    """Aligned text."""
    cells = [("what", "load", "value", "floor", "ratio", "note")]
    for row in rows:
        floor = f"{row.floor:.2f}" if row.floor is not None else ""
        ratio = f"{row.ratio:.2f}x" if row.ratio is not None else ""
        cells.append((row.what, row.load, f"{row.value:.2f} {row.unit}", floor, ratio, row.note))
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0…1) of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def milliseconds(values: Sequence[float]) -> float:
    """The median of seconds, in milliseconds."""
    return statistics.median(values) * 1000
