"""Statements written as text go to the driver itself; SQLAlchemy builds and runs the composed ones.

A text statement gains nothing on its way through SQLAlchemy's execution, and on the small statements that the
hot paths are made of that way costs more than the driver and the server together.
"""

from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

import psycopg
import sqlalchemy as sa
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.exc import MultipleResultsFound, NoResultFound
from sqlalchemy.ext.asyncio import AsyncConnection

_DIALECT = PGDialect_psycopg()  # type: ignore[no-untyped-call]


class Rows:
    """What a text statement answered, read as SQLAlchemy's results are."""

    def __init__(self, rows: list[Any], rowcount: int) -> None:
        self._rows = rows
        self.rowcount = rowcount

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def all(self) -> list[Any]:
        """Every row; columns are attributes."""
        return self._rows

    def one_or_none(self) -> Any:
        """The only row, or None; more than one raises MultipleResultsFound."""
        if len(self._rows) > 1:
            raise MultipleResultsFound(f"one row was expected, and {len(self._rows)} came")
        return self._rows[0] if self._rows else None

    def one(self) -> Any:
        """The only row; none raises NoResultFound, more than one MultipleResultsFound."""
        row = self.one_or_none()
        if row is None:
            raise NoResultFound("one row was expected, and none came")
        return row

    def scalar_one(self) -> Any:
        """The first column of the only row."""
        return self.one()[0]

    def scalar_one_or_none(self) -> Any:
        """The first column of the only row, or None where there is no row."""
        row = self.one_or_none()
        return row[0] if row is not None else None

    def scalars(self) -> "Rows":
        """The first column of every row."""
        return Rows([row[0] for row in self._rows], self.rowcount)

    def mappings(self) -> "Rows":
        """Every row as a dict by column."""
        return Rows([row._asdict() for row in self._rows], self.rowcount)


class PooledConnection(AsyncConnection):
    """A pooled connection: text is run by the driver, everything else by SQLAlchemy.

    What fails in a text statement is raised as the driver's own error (psycopg.Error).
    """

    @property
    def driver(self) -> psycopg.AsyncConnection[Any]:
        """The driver's connection."""
        return cast("psycopg.AsyncConnection[Any]", self._started.connection.driver_connection)

    async def __aexit__(self, *exc_info: object) -> None:
        """Give the connection back; a broken one, or one left within a transaction, is closed instead."""
        held = not self._started.invalidated
        if held and self.driver.info.transaction_status is not TransactionStatus.IDLE:
            await self.invalidate()
        await self.close()

    @property
    def _started(self) -> sa.Connection:
        if self.sync_connection is None:
            raise RuntimeError("the connection is not in use: enter it first")
        return self.sync_connection

    async def execute(self, statement: Any, parameters: Any = None, **options: Any) -> Any:
        """As SQLAlchemy's; several sets of parameters, and options, make it SQLAlchemy's."""
        if not isinstance(statement, sa.TextClause) or isinstance(parameters, Sequence) or options:
            return await super().execute(statement, parameters, **options)
        cursor = self.driver.cursor(row_factory=_named)
        await cursor.execute(_driver_sql(statement.text), parameters or {})
        rows = await cursor.fetchall() if cursor.description else []
        return Rows(rows, cursor.rowcount)

    async def tuples(self, statement: sa.TextClause, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """The rows as plain tuples, sent in binary: the cheapest way to read very many."""
        cursor = self.driver.cursor(binary=True, row_factory=tuple_row)
        await cursor.execute(_driver_sql(statement.text), parameters)
        return await cursor.fetchall()


@lru_cache(maxsize=1024)
def _driver_sql(text: str) -> Any:
    """With the driver's placeholders for SQLAlchemy's."""
    return str(sa.text(text).compile(dialect=_DIALECT)).encode()


def _named(cursor: psycopg.AsyncCursor[Any]) -> Callable[[Sequence[Any]], Any]:
    """Makes rows whose columns are attributes."""
    result = cursor.pgresult
    if result is None:
        return tuple
    return _row_class(tuple(result.fname(number) or b"" for number in range(result.nfields)))._make


@lru_cache(maxsize=1024)
def _row_class(names: tuple[bytes, ...]) -> type[NamedTuple]:
    return cast("type[NamedTuple]", namedtuple("Row", [name.decode() for name in names], rename=True))  # noqa: PYI024 - its columns are known at run time only
