"""The worker's session: heartbeats on a thread of their own, so that no agent can starve them."""

import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable

import grpc

from interlock.common.addresses import parse_peer
from interlock.common.channel import SPREAD
from interlock.orchestrator.v1 import worker_service_pb2 as messages
from interlock.orchestrator.v1 import worker_service_pb2_grpc
from svc_kit.status import from_rpc_error
from worker_svc.attempts import Attempts
from worker_svc.config import WorkerSettings

_LOG = logging.getLogger(__name__)
_FIRST_WAIT_SECONDS = 0.05
_LAST_WAIT_SECONDS = 1.0
_READY_SECONDS = 30.0
_ANSWER_SECONDS = 5.0
# A restarted orchestrator is found within a second, not after grpc's stock two minutes.
_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A peer that vanished is noticed while the stream is silent.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.enable_http_proxy", 0),
)


class SessionEnded(Exception):
    """The stream ended, or its peer fell silent; the session itself may live on."""


class Session:
    """Keeps one session open, and takes it up again on any replica when the stream breaks.

    When the lease has run out, or the orchestrator does not know the session, every attempt is ended here
    and a new session begins. Everything here is blocking grpc: event loops in two threads of one process
    would share grpc's poller, and one could starve the other.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        attempts: Attempts,
        *,
        token: Callable[[], str],
        loop_lag: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._attempts = attempts
        self._token = token
        self._loop_lag = loop_lag
        self._incarnation = time.time_ns()
        self._session_id = str(uuid.uuid4())
        self._lease_ends = 0.0
        self._open = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="session", daemon=True)

    @property
    def session_id(self) -> str | None:
        """The open session, or None while there is none to claim under."""
        return self._session_id if self._open.is_set() else None

    def start(self) -> None:
        """Open the session in the background.

        Raises ValueError if the token would cross a network in plain text.
        """
        address = self._settings.orchestrator_address
        if not (parse_peer(address).is_local or self._settings.allow_plaintext_beyond_loopback):
            raise ValueError(f"a token would be sent to {address} in plain text")
        self._thread.start()

    def wait_open(self, timeout: float = _READY_SECONDS) -> bool:
        """Whether the session came open in time; blocks."""
        return self._open.wait(timeout)

    def close(self) -> None:
        """End the stream; the lease runs out by itself, or was given back with the last attempt."""
        self._closing.set()
        self._thread.join(timeout=5.0)

    def _keep(self) -> None:
        wait = _FIRST_WAIT_SECONDS
        peer = parse_peer(self._settings.orchestrator_address)
        # A stream that breaks is taken up again on the next replica.
        options = (*_OPTIONS, SPREAD) if peer.is_spread else _OPTIONS
        with grpc.insecure_channel(peer.target, options=options) as channel:
            stub = worker_service_pb2_grpc.WorkerServiceStub(channel)
            while not self._closing.is_set():
                try:
                    self._follow(stub)
                    wait = _FIRST_WAIT_SECONDS
                except grpc.RpcError as error:
                    self._refused(error)
                except (SessionEnded, OSError) as error:
                    _LOG.debug("session stream broke: %r", error)
                if self._open.is_set() and time.monotonic() > self._lease_ends:
                    self._begin_anew("its lease has run out")
                self._closing.wait(wait)
                wait = min(wait * 2, _LAST_WAIT_SECONDS)
        self._open.clear()

    def _refused(self, error: grpc.RpcError) -> None:
        problem = from_rpc_error(error)
        if problem.reason == "SESSION_NOT_FOUND":
            self._begin_anew("the orchestrator does not know it any more")
        elif problem.code is not grpc.StatusCode.UNAVAILABLE:
            _LOG.warning("session refused: %s %s", problem.reason or problem.code, problem.message)

    def _begin_anew(self, why: str) -> None:
        _LOG.warning("session %s ended: %s", self._session_id, why)
        self._open.clear()
        self._attempts.stop_all(f"session {self._session_id} ended: {why}")
        self._session_id = str(uuid.uuid4())

    def _follow(self, stub: worker_service_pb2_grpc.WorkerServiceStub) -> None:
        """Keep one stream going until it breaks or the worker stops."""
        requests: queue.SimpleQueue[messages.WorkerSessionRequest | None] = queue.SimpleQueue()
        answers: queue.SimpleQueue[messages.WorkerSessionResponse | grpc.RpcError | None] = (
            queue.SimpleQueue()
        )
        stream = stub.WorkerSession(
            iter(requests.get, None), metadata=(("authorization", f"Bearer {self._token()}"),)
        )

        def read() -> None:
            try:
                for answer in stream:
                    # At once: a cancel comes unasked, and does not wait for the next heartbeat.
                    self._attempts.obey(list(answer.directives))
                    answers.put(answer)
            except grpc.RpcError as error:
                answers.put(error)
            else:
                answers.put(None)

        # Apart, because reading from a stream has no time-out of its own.
        threading.Thread(target=read, name="session-answers", daemon=True).start()

        def exchange(request: messages.WorkerSessionRequest) -> float:
            while not answers.empty():
                self._next(answers)  # came unasked, and must not pass for the answer to this request
            sent = time.monotonic()
            requests.put(request)
            return self._heed(self._next(answers), sent)

        try:
            interval = exchange(messages.WorkerSessionRequest(open=self._opening()))
            self._open.set()
            while not self._closing.wait(interval):
                interval = exchange(messages.WorkerSessionRequest(heartbeat=self._heartbeat()))
        finally:
            requests.put(None)
            stream.cancel()

    def _next(
        self, answers: "queue.SimpleQueue[messages.WorkerSessionResponse | grpc.RpcError | None]"
    ) -> messages.WorkerSessionResponse:
        """The next answer; waited for no longer than the lease lasts."""
        patience = _ANSWER_SECONDS
        if self._open.is_set():
            patience = min(patience, max(0.0, self._lease_ends - time.monotonic()))
        try:
            answer = answers.get(timeout=patience)
        except queue.Empty:
            raise SessionEnded(f"no answer within {patience:g} s") from None
        if isinstance(answer, grpc.RpcError):
            raise answer
        if answer is None:
            raise SessionEnded("the orchestrator ended the stream")
        return answer

    def _heed(self, answer: messages.WorkerSessionResponse, sent: float) -> float:
        """Note the lease that an answer gives; seconds until the next message is due."""
        # Counted from before the message left: the orchestrator's own count began later.
        self._lease_ends = sent + answer.lease.ToTimedelta().total_seconds()
        return answer.heartbeat_interval.ToTimedelta().total_seconds()

    def _opening(self) -> messages.OpenSession:
        return messages.OpenSession(
            session_id=self._session_id,
            slot=self._settings.slot,
            incarnation=self._incarnation,
            pools=self._settings.pools,
            capacity=self._settings.capacity,
        )

    def _heartbeat(self) -> messages.Heartbeat:
        refs = [
            messages.AttemptRef(task_id=attempt.claimed.task_id, attempt=attempt.claimed.attempt)
            for attempt in self._attempts.all()
        ]
        beat = messages.Heartbeat(attempts=refs)
        beat.loop_lag.FromMicroseconds(int(self._loop_lag() * 1_000_000))
        return beat
