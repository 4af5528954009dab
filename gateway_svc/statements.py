"""Named statements of a connection to a database: what a tool may ask, written by the operator. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from svc_kit.errors import Violation

MAX_STATEMENTS = 64
MAX_SQL = 10_000
MAX_ROWS = 10_000
MAX_SECONDS = 60.0
DEFAULT_ROWS = 1000
DEFAULT_SECONDS = 5.0
_MAX_LISTED = 1000

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_PARAMETER = re.compile(r"%\(([a-z][a-z0-9_]{0,62})\)s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One SQL statement, with parameters written as `%(name)s`; 0 means the default."""

    name: str
    sql: str
    writes: bool
    max_rows: int
    seconds: float

    @property
    def parameters(self) -> frozenset[str]:
        """The names that it takes, all of which must be given."""
        return frozenset(_PARAMETER.findall(self.sql))


def statement_flaws(statements: Sequence[Statement]) -> Iterator[Violation]:
    """Everything that is wrong with the statements of a connection."""
    if not 1 <= len(statements) <= MAX_STATEMENTS:
        yield Violation("connection.statements", f"must be 1 to {MAX_STATEMENTS}")
    names = [each.name for each in statements]
    for index, each in enumerate(statements):
        where = f"connection.statements[{index}]"
        if not _NAME.fullmatch(each.name):
            yield Violation(f"{where}.name", "must be lower-case letters, digits and '_', at most 63")
        elif each.name in names[:index]:
            yield Violation(f"{where}.name", "stands twice")
        if not each.sql.strip() or len(each.sql) > MAX_SQL or "\0" in each.sql:
            yield Violation(f"{where}.sql", f"must be 1 to {MAX_SQL} characters, and no NUL")
        elif "%" in _PARAMETER.sub("", each.sql).replace("%%", ""):
            yield Violation(f"{where}.sql", "parameters are written %(name)s, and a percent sign as %%")
        if not 0 <= each.max_rows <= MAX_ROWS:
            yield Violation(f"{where}.max_rows", f"must be 1 to {MAX_ROWS}, or 0 for {DEFAULT_ROWS}")
        if not 0 <= each.seconds <= MAX_SECONDS:
            yield Violation(f"{where}.timeout", f"must be more than 0 s and at most {MAX_SECONDS:.0f} s")


def parameter_flaw(statement: Statement, given: Mapping[str, Any]) -> str:
    """Why these parameters do not fit; empty when they do."""
    missing, unknown = statement.parameters - given.keys(), given.keys() - statement.parameters
    if missing:
        return f"parameters are missing: {', '.join(sorted(missing))}"
    if unknown:
        return f"the statement takes {', '.join(sorted(statement.parameters)) or 'no parameters'} alone"
    bad = [name for name, value in given.items() if not _is_plain(value)]
    if bad:
        wanted = f"must be text, a number, true, false, null, or a list of at most {_MAX_LISTED} of one kind"
        return f"{', '.join(sorted(bad))} {wanted}"
    return ""


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" not in value
    if isinstance(value, list):
        kinds = {type(each) for each in value}
        return len(value) <= _MAX_LISTED and len(kinds) <= 1 and all(map(_is_scalar, value))
    return _is_scalar(value)


def _is_scalar(value: Any) -> bool:
    return (
        value is None
        or isinstance(value, (bool, int, float))
        or (isinstance(value, str) and "\0" not in value)
    )
