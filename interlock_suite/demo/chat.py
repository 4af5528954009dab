"""OpenAI's chat completions in the words of a small local model. Pure.

The model is asked for a text alone. What it may write is fixed by a JSON schema wherever the request wants a
function call or JSON: it chooses freely among what the schema allows, and can write nothing else.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_TOKENS = 256
_MAX_ANSWER = 400
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "user"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What the model is asked: to go on after the prompt, as the schema says, for so many tokens at most."""

    prompt: str
    schema: dict[str, Any] | None
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What it wrote; `whole` is False where its tokens were used up first."""

    text: str
    whole: bool
    prompt_tokens: int
    answer_tokens: int


def question(body: Mapping[str, Any]) -> Question:
    """What a request comes to; raises ValueError with what is wrong."""
    if body.get("stream"):
        raise ValueError("stream: answers come whole here")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("messages: at least one is required")
    functions = _functions(body)
    lines = [_message(message, functions) for message in messages]
    wanted = body.get("max_completion_tokens") or body.get("max_tokens") or MAX_TOKENS
    if not isinstance(wanted, int) or wanted < 1:
        raise ValueError("max_tokens: must be at least 1")
    return Question(
        prompt=f"{''.join(lines)}<|im_start|>assistant\n",
        schema=_schema(body, functions),
        max_tokens=min(wanted, MAX_TOKENS),
    )


def answer(body: Mapping[str, Any], words: Words) -> dict[str, Any]:
    """The chat completion that says what the model wrote."""
    message: dict[str, Any] = {"role": "assistant", "content": words.text}
    finish = "stop" if words.whole else "length"
    if words.whole and _functions(body):
        written = json.loads(words.text)
        if "name" in written:
            call = {"name": written["name"], "arguments": json.dumps(written["arguments"])}
            message = {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": f"call_{words.prompt_tokens}", "type": "function", "function": call}],
            }
            finish = "tool_calls"
        else:
            message["content"] = written["answer"]
    return {
        "id": "chatcmpl-local",
        "object": "chat.completion",
        "created": 0,
        "model": str(body.get("model", "")),
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {
            "prompt_tokens": words.prompt_tokens,
            "completion_tokens": words.answer_tokens,
            "total_tokens": words.prompt_tokens + words.answer_tokens,
        },
    }


def _functions(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those that may be called."""
    offered = [tool["function"] for tool in body.get("tools") or []]
    choice = body.get("tool_choice") or "auto"
    if choice == "none":
        return []
    if isinstance(choice, Mapping):
        named = [each for each in offered if each["name"] == choice["function"]["name"]]
        if not named:
            raise ValueError("tool_choice: names none of the tools")
        return named
    return offered


def _schema(body: Mapping[str, Any], functions: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if functions:
        choices = [
            _object(name={"const": each["name"]}, arguments=each.get("parameters") or {"type": "object"})
            for each in functions
        ]
        if (body.get("tool_choice") or "auto") == "auto":
            choices.append(_object(answer={"type": "string", "maxLength": _MAX_ANSWER}))
        return {"oneOf": choices}
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        schema: dict[str, Any] = wanted["json_schema"]["schema"]
        return schema
    return {"type": "object"} if wanted.get("type") == "json_object" else None


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _message(message: Mapping[str, Any], functions: Sequence[Mapping[str, Any]]) -> str:
    role = _ROLES.get(message.get("role", ""))
    if role is None:
        raise ValueError(f"messages: no such role: {message.get('role')!r}")
    content = _text(message.get("content"))
    if role == "system" and functions:
        described = (f"{each['name']}: {each.get('description', '')}" for each in functions)
        content = "\n".join([content, "", "Functions:", *described])
    if message["role"] == "tool":
        content = f"The function answered: {content}"
    calls = message.get("tool_calls") or []
    if calls:
        content = "".join(
            json.dumps(
                {
                    "name": call["function"]["name"],
                    "arguments": json.loads(call["function"]["arguments"]),
                }
            )
            for call in calls
        )
    return f"<|im_start|>{role}\n{content}<|im_end|>\n"


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content)
    return content or ""
