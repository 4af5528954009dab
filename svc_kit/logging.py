"""Structured logs. Every line of a call carries its request id and trace, bound once by the interceptor."""

import logging
import sys

import structlog
from structlog.typing import Processor

# Where structlog puts texts of many lines.
_TRACEBACKS = frozenset({"exception", "stack"})


def configure_logging(*, service: str, level: str = "info", log_format: str = "json") -> None:
    """Send structlog and the standard library's loggers to standard error, one line per event.

    `log_format` is json (one object per line) or console (for people).
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _named(service),
    ]
    # Tracebacks without the values of variables: those are payloads, tokens and passwords.
    tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    last: list[Processor] = (
        [structlog.processors.ExceptionRenderer(tracebacks), structlog.processors.JSONRenderer()]
        if log_format == "json"
        else [
            structlog.processors.ExceptionRenderer(),
            _printable,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Their every step is of no use to an operator, and SQL echoed at DEBUG would hold payloads.
    for name in ("asyncio", "sqlalchemy", "psycopg", "httpx", "httpcore", "dramatiq"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _printable(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """What a terminal only shows: hostile text in a log neither moves the cursor nor forges a line."""
    shown: dict[str, object] = {}
    for key, value in event.items():
        plain = isinstance(value, int | float | None)
        shown[_shown(key)] = value if plain else _shown(value, lines=key in _TRACEBACKS)
    return shown


def _shown(value: object, *, lines: bool = False) -> str:
    text = value if isinstance(value, str) else repr(value)
    if lines:
        return "\n".join(f"  {_shown(line)}" for line in text.split("\n"))
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _named(service: str) -> Processor:
    def add_service(
        _logger: object, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        event.setdefault("service", service)
        return event

    return add_service
