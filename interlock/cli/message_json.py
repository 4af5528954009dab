"""Messages of the contract as JSON."""

import json
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

_SUFFIX = "_json"


def message_json(message: Message) -> dict[str, Any]:
    """A message by the contract's field names, every field present; `…_json` texts as the JSON they hold."""
    shown: dict[str, Any] = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    _unfold(message.DESCRIPTOR, shown)
    return shown


def _unfold(kind: Any, shown: dict[str, Any]) -> None:
    """By the descriptor, so that what a task's own JSON holds is never taken for a field of ours."""
    for field in kind.fields:
        value = shown.get(field.name)
        inner = field.message_type
        if inner is not None and _is_ours(inner):
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, dict):
                    _unfold(inner, each)
        elif field.name.endswith(_SUFFIX) and isinstance(value, str):
            # Over the field without the suffix, if there is one: this one is exact.
            shown[field.name.removesuffix(_SUFFIX)] = json.loads(value) if value else None
            del shown[field.name]


def _is_ours(kind: Any) -> bool:
    name: str = kind.full_name
    return name.startswith("interlock.") and not kind.GetOptions().map_entry
