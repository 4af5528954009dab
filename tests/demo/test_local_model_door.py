"""The local model's door, with somebody else behind it: what is asked of the model, and what comes back."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from interlock_suite.demo.chat import MAX_TOKENS, Question, Words, answer, question
from interlock_suite.demo.local_model import serving

_KEY = "sk-right"


def function(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {
        "type": "function",
        "function": {"name": name, "description": f"Does {name}.", "parameters": parameters},
    }


def request(**more: Any) -> dict[str, Any]:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "hello"}]},
    ]
    return {"model": "small", "messages": messages, **more}


def words(text: str, *, whole: bool = True) -> Words:
    return Words(text=text, whole=whole, prompt_tokens=7, answer_tokens=3)


def test_a_conversation_comes_to_one_prompt_with_its_functions_calls_and_answers() -> None:
    body = request(tools=[function("count", text={"type": "string"})], tool_choice="required")
    body["messages"] += [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "function": {"name": "count", "arguments": '{"text": "hello"}'}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": '{"words": 1}'},
    ]
    asked = question(body)
    assert asked.prompt == (
        "<|im_start|>system\nBe brief.\n\nFunctions:\ncount: Does count.<|im_end|>\n"
        "<|im_start|>user\nhello<|im_end|>\n"
        '<|im_start|>assistant\n{"name": "count", "arguments": {"text": "hello"}}<|im_end|>\n'
        '<|im_start|>user\nThe function answered: {"words": 1}<|im_end|>\n'
        "<|im_start|>assistant\n"
    )
    assert asked.max_tokens == MAX_TOKENS


def test_the_model_can_write_a_call_of_what_is_offered_and_nothing_else() -> None:
    tools = [function("count", text={"type": "string"}), function("result", words={"type": "integer"})]
    asked = question(request(tools=tools, tool_choice="required"))
    assert asked.schema is not None
    assert [each["properties"]["name"] for each in asked.schema["oneOf"]] == [
        {"const": "count"},
        {"const": "result"},
    ]
    # Where it need not call anything it may answer; a named function is the only one; and `none` is no call.
    free = question(request(tools=tools))
    assert free.schema is not None and "answer" in free.schema["oneOf"][-1]["properties"]
    named = question(request(tools=tools, tool_choice={"type": "function", "function": {"name": "result"}}))
    assert named.schema is not None and len(named.schema["oneOf"]) == 1
    assert question(request(tools=tools, tool_choice="none")).schema is None
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    assert question(request(response_format=wanted)).schema == schema


def test_what_it_wrote_comes_back_as_a_call_as_a_text_or_as_cut_off() -> None:
    body = request(tools=[function("count", text={"type": "string"})])
    called = answer(body, words('{"name": "count", "arguments": {"text": "a b"}}'))["choices"][0]
    assert called["finish_reason"] == "tool_calls"
    assert called["message"]["tool_calls"][0]["function"] == {"name": "count", "arguments": '{"text": "a b"}'}
    said = answer(body, words('{"answer": "no"}'))["choices"][0]
    assert (said["finish_reason"], said["message"]["content"]) == ("stop", "no")
    cut = answer(body, words('{"name": "cou', whole=False))
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    assert answer(request(), words("plain"))["choices"][0]["message"]["content"] == "plain"


@pytest.fixture
def url() -> Iterator[str]:
    def ask(asked: Question) -> Words:
        return words(asked.prompt[-20:])

    with serving(_KEY, ask) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def posted(url: str, data: bytes, *, key: str = _KEY) -> tuple[int, dict[str, Any]]:
    sent = urllib.request.Request(url, data, {"authorization": f"Bearer {key}"})  # noqa: S310 - http on loopback
    try:
        with urllib.request.urlopen(sent) as answered:  # noqa: S310 - the same
            return answered.status, json.load(answered)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_only_whoever_has_the_key_is_answered_and_bad_requests_are_told_what_is_wrong(url: str) -> None:
    good = json.dumps(request()).encode()
    door = f"{url}/v1/chat/completions"
    status, said = posted(door, good)
    assert status == 200
    assert said["choices"][0]["message"]["content"] == "im_start|>assistant\n"
    assert posted(door, good, key="sk-wrong")[0] == 401
    assert posted(f"{url}/v1/models", good)[0] == 404
    for bad, why in (
        (b"no json", "not understood"),
        (b"[]", "not understood"),
        (json.dumps(request(stream=True)).encode(), "stream"),
        (json.dumps({"messages": []}).encode(), "messages"),
        (json.dumps({"messages": [{"role": "ghost"}]}).encode(), "ghost"),
        (json.dumps(request(max_tokens=-1)).encode(), "max_tokens"),
        (b" " * (1024 * 1024 + 1), "1048576 bytes"),
    ):
        status, said = posted(door, bad)
        assert status in (400, 413)
        assert why in said["error"]["message"]
