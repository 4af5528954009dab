"""The database of one service: transactions that fail in one known way when Postgres is away."""

import asyncio
import select
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
import structlog
from sqlalchemy import event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from interlock.common.cancellation import being_cancelled
from interlock.common.v1.errors_pb2 import ErrorReason
from svc_kit.errors import Unavailable
from svc_kit.text_statements import PooledConnection

log = structlog.get_logger(__name__)

# A plain psycopg connection outside the pool.
Connection = psycopg.AsyncConnection[tuple[Any, ...]]

RETRY_AFTER_SECONDS = 1.0

# What Postgres says when it, not the statement, is the reason; all of it passes by itself or by an operator's
# hand, and the statement was either not done or is safe to ask again.
_UNAVAILABLE_CLASSES = ("08", "53", "57P", "58")
_UNAVAILABLE_STATES = frozenset(
    {
        "25006",  # read-only: a standby that was just demoted
        "40001",  # serialization failure
        "40P01",  # deadlock
        "55P03",  # lock_timeout
        "57014",  # statement_timeout
        "25P03",  # idle_in_transaction_session_timeout
    }
)


def database_url(url: str) -> URL:
    """The URL with psycopg as driver; takes postgresql://, postgres:// and postgresql+psycopg://."""
    parsed = make_url(
        url.replace("postgres://", "postgresql://", 1) if url.startswith("postgres://") else url
    )
    if parsed.get_backend_name() != "postgresql":
        raise ValueError(f"not a PostgreSQL URL: {parsed.render_as_string(hide_password=True)}")
    return parsed.set(drivername="postgresql+psycopg")


class Database:
    """A pool of connections to one database, and the mapping of its failures to Unavailable.

    Times are seconds. A lost connection empties the pool and the next caller connects anew, so a restarted
    Postgres is found again without help; nothing is pinged per checkout (a look at the socket costs no round
    trip).
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 8,
        application_name: str = "interlock",
        statement_timeout: float = 10.0,
        lock_timeout: float = 5.0,
        connect_timeout: int = 5,
        pool_timeout: float = 5.0,
    ) -> None:
        self._url = database_url(url)
        self._connect_args: dict[str, Any] = {
            "application_name": application_name,
            "connect_timeout": connect_timeout,
            # A host that vanished without a word is noticed in seconds, not in the kernel's quarter of an
            # hour.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
        }
        options = {
            "statement_timeout": f"{statement_timeout * 1000:.0f}",
            "lock_timeout": f"{lock_timeout * 1000:.0f}",
            "idle_in_transaction_session_timeout": f"{statement_timeout * 2000:.0f}",
            # Each of our statements has its index. A plan that was made while a table was all but empty reads
            # all of it, and is kept until the server happens to analyze the table that has grown meanwhile.
            "enable_seqscan": "off",
            "default_transaction_isolation": r"read\ committed",
            "timezone": "UTC",
            # None of them reads so much that starting workers, which takes milliseconds, would gain anything.
            "max_parallel_workers_per_gather": "0",
        }
        self._engine: AsyncEngine = create_async_engine(
            self._url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=pool_timeout,
            pool_use_lifo=True,
            # Transactions are the driver's: the pool has no mode to set and nothing to undo.
            isolation_level="AUTOCOMMIT",
            pool_reset_on_return=None,
            # Errors go to the log with their text; parameters are payloads.
            hide_parameters=True,
            connect_args={
                **self._connect_args,
                "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
            },
        )
        event.listen(self._engine.sync_engine, "checkout", _refuse_hung_up)
        self._away = False

    @property
    def name(self) -> str:
        """The database's name."""
        return self._url.database or ""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """One READ COMMITTED transaction: committed when the block ends, rolled back when it raises.

        Raises Unavailable DATABASE_UNAVAILABLE when Postgres is away, full, shutting down or out of time;
        raised by the COMMIT itself it leaves open whether the transaction happened. Other database errors
        pass unchanged.
        """
        with self._known_failures():
            connection = PooledConnection(self._engine)
            async with connection, connection.driver.transaction():
                yield connection

    @asynccontextmanager
    async def autocommit(self) -> AsyncIterator[PooledConnection]:
        """A connection on which every statement is its own transaction; fails as `transaction` does."""
        with self._known_failures():
            connection = PooledConnection(self._engine)
            async with connection:
                yield connection

    @asynccontextmanager
    async def dedicated(self, purpose: str) -> AsyncIterator[Connection]:
        """A connection of one's own outside the pool: for LISTEN, NOTIFY and session locks.

        In autocommit, without timeouts, and its commits do not wait for the disk: nothing that must last goes
        through it.
        """
        _, from_url = self._engine.dialect.create_connect_args(self._url)
        arguments = {**from_url, **self._connect_args}
        arguments["application_name"] = f"{self._connect_args['application_name']} {purpose}"
        arguments["options"] = "-c synchronous_commit=off -c timezone=UTC"
        with self._known_failures():
            connection = await psycopg.AsyncConnection.connect(autocommit=True, **arguments)
            try:
                yield connection
            finally:
                await connection.close()

    async def ping(self) -> None:
        """One round trip; raises Unavailable when there is no answer."""
        async with self.autocommit() as connection:
            await connection.execute(text("SELECT 1"))

    async def close(self) -> None:
        """Close every pooled connection; those still in use close when they are given back."""
        await self._engine.dispose()

    @contextmanager
    def _known_failures(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, DisconnectionError, PoolTimeout, psycopg.Error) as error:
            if not is_unavailable(error):
                raise
            if being_cancelled():
                # Nobody is left to try again, and loops that do must not go on.
                raise asyncio.CancelledError from error
            if not self._away:
                self._away = True
                log.warning(
                    "database_unavailable",
                    database=self.name,
                    error=_first_line(error),
                )
            raise Unavailable(
                ErrorReason.ERROR_REASON_DATABASE_UNAVAILABLE,
                "the database is not available; try again shortly",
                retry_after=RETRY_AFTER_SECONDS,
            ) from error
        else:
            if self._away:
                self._away = False
                log.info("database_available", database=self.name)


def is_unavailable(error: BaseException) -> bool:
    """Whether the database, and not the statement, is the reason of this error."""
    if isinstance(error, (DisconnectionError, PoolTimeout)):
        return True
    if isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return True
        if error.orig is None:
            return False
        error = error.orig
    if not isinstance(error, psycopg.Error):
        return False
    state = error.sqlstate
    if state is None:
        # Raised by the client library itself: it could not connect, or lost the connection.
        return isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
    return state in _UNAVAILABLE_STATES or state.startswith(_UNAVAILABLE_CLASSES)


def _refuse_hung_up(_connection: Any, record: Any, _proxy: Any) -> None:
    """At checkout: a connection whose server has hung up is replaced before anybody uses it.

    Looks at the socket only (a few microseconds). The pool answers DisconnectionError by connecting anew; a
    connection just made is not looked at, so that this ends.
    """
    if record.info.get("used"):
        poll = select.poll()
        poll.register(record.driver_connection.fileno(), select.POLLRDHUP)
        if poll.poll(0):
            raise DisconnectionError("the server closed the connection")
    record.info["used"] = True


def _first_line(error: BaseException) -> str:
    orig = getattr(error, "orig", None) or error
    return str(orig).strip().split("\n", 1)[0]
