"""Between the contract's queues and workers and the orchestrator's. Pure."""

from datetime import datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from interlock.orchestrator.v1 import queue_service_pb2 as messages
from orchestrator_svc.queues import Queue, QueueStats
from orchestrator_svc.workers import Worker

MOST = 10_000


def queue_to_proto(queue: Queue, stats: QueueStats | None = None) -> messages.Queue:
    """A queue."""
    message = messages.Queue(
        name=queue.name,
        pool=queue.pool,
        description=queue.description,
        paused=queue.paused,
        max_running=queue.max_running or 0,
        max_running_per_key=queue.max_running_per_key,
        max_waiting=queue.max_waiting or 0,
        etag=queue.etag,
        create_time=_time(queue.create_time),
        update_time=_time(queue.update_time),
        stats=_stats(stats) if stats is not None else None,
    )
    if queue.rate is not None:
        message.rate_limit.count = queue.rate.count
        message.rate_limit.period.FromNanoseconds(round(queue.rate.seconds * 1e9))
        message.rate_limit.burst = queue.rate.burst
    return message


def worker_to_proto(worker: Worker, tenant: str) -> messages.Worker:
    """A worker, with what concerns the tenant."""
    return messages.Worker(
        session_id=str(worker.session.session_id),
        name=worker.session.worker,
        pools=sorted(pool for served, pool in worker.serves if served == tenant),
        capacity=worker.session.capacity,
        running=worker.running.get(tenant, 0),
        state=_state(worker),
        start_time=_time(worker.start_time),
        lease_until=_time(worker.lease_until),
    )


def _state(worker: Worker) -> messages.WorkerState.ValueType:
    if worker.silent:
        return messages.WORKER_STATE_SILENT
    if not worker.draining:
        return messages.WORKER_STATE_ACTIVE
    return messages.WORKER_STATE_DRAINING if worker.running else messages.WORKER_STATE_DRAINED


def _stats(stats: QueueStats) -> messages.QueueStats:
    return messages.QueueStats(
        waiting=min(stats.waiting, MOST),
        waiting_is_minimum=stats.waiting > MOST,
        running=min(stats.running, MOST),
        oldest_wait=_duration(stats.oldest_wait) if stats.oldest_wait is not None else None,
        ended_last_minute=min(stats.ended_last_minute, MOST),
        workers=stats.workers,
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(max(0.0, seconds) * 1e9))
    return duration


def _time(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
