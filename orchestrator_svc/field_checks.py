"""Checks of single fields, for requests of every kind. Pure."""

import re
import uuid
from collections.abc import Iterable, Mapping

from google.protobuf.duration_pb2 import Duration

from svc_kit.errors import InvalidArgument, Violation, invalid
from svc_kit.json_schema import SchemaUnusable, compile_schema
from svc_kit.strict_json import JsonValue, parse

MAX_LABELS = 32
MAX_LABEL_CHARACTERS = 255
MAX_TOLD_SECONDS = 7 * 24 * 3600.0
MAX_SCHEMA = 64 * 1024
AGENT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
VERSION = re.compile(r"[0-9A-Za-z.+-]{1,64}")
TASK_TYPE = re.compile(r"[A-Za-z0-9_.-]{0,64}")
LABEL = re.compile(r"[a-z0-9_.-]{1,63}")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
STEP_KEY = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
NIL = uuid.UUID(int=0)
STEP_KEY_WANTED = "must be 1 to 128 letters, digits, _, ., : and -"


def task_id(text: str) -> uuid.UUID:
    """The id of a task."""
    found: list[Violation] = []
    parsed = parsed_uuid(text, "task_id", found)
    raise_all(found)
    return parsed


def step_key(text: str, *, field: str = "step_key") -> str:
    """The key of a step."""
    if not STEP_KEY.fullmatch(text):
        raise invalid([Violation(field, STEP_KEY_WANTED)])
    return text


def blob(named: str) -> str:
    """The digest of a blob."""
    raise_all(list(digest_flaws(named, "digest")))
    return named


def schema_flaws(text: str, field: str) -> Iterable[Violation]:
    """Everything wrong with a JSON Schema; an empty one is none."""
    if len(text) > MAX_SCHEMA:
        yield Violation(field, f"has more than {MAX_SCHEMA} characters")
        return
    try:
        if text:
            compile_schema(text)
    except SchemaUnusable as error:
        yield Violation(field, str(error))


def digest_flaws(named: str, field: str) -> Iterable[Violation]:
    """Whether this names a blob."""
    if not DIGEST.fullmatch(named):
        yield Violation(field, "must be sha256: and 64 hex digits in lower case")


def label_flaws(labels: Mapping[str, str]) -> Iterable[Violation]:
    """Everything wrong with a task's labels."""
    if len(labels) > MAX_LABELS:
        yield Violation("labels", f"{len(labels)} labels, more than the {MAX_LABELS} allowed")
    for key, value in sorted(labels.items()):
        if not LABEL.fullmatch(key):
            yield Violation("labels", f"key {key[:64]!r} must be 1 to 63 of a-z, 0-9, _, . and -")
        elif len(value) > MAX_LABEL_CHARACTERS:
            yield Violation(f"labels.{key}", f"has more than {MAX_LABEL_CHARACTERS} characters")
        elif "\0" in value:
            yield Violation(f"labels.{key}", "holds a NUL character")


def parsed_json(text: str, field: str, found: list[Violation]) -> JsonValue:
    """The value of a JSON text."""
    try:
        return parse(text, field=field)
    except InvalidArgument as error:
        found += error.violations
        return None


def duration_seconds(
    duration: Duration, field: str, found: list[Violation], most: float = MAX_TOLD_SECONDS
) -> float:
    """A duration in seconds."""
    seconds = duration.ToNanoseconds() / 1e9
    if not 0 <= seconds <= most:
        found.append(Violation(field, f"must be 0 to {most:g} seconds"))
    return seconds


def parsed_uuid(text: str, field: str, found: list[Violation]) -> uuid.UUID:
    """A UUID; the nil one where it is none."""
    if UUID.fullmatch(text):
        return uuid.UUID(text)
    found.append(Violation(field, "must be a UUID such as 01900000-0000-7000-8000-000000000000"))
    return NIL


def raise_all(found: list[Violation]) -> None:
    """Raise INVALID_FIELDS when anything was found."""
    if found:
        raise invalid(found)
