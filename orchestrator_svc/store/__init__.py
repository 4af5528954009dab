"""The orchestrator's statements, a module per question. Each names the tenant, or a session."""

from orchestrator_svc.store.admission import AdmissionStore
from orchestrator_svc.store.attempt_feed import AttemptFeedStore
from orchestrator_svc.store.attempts import AttemptStore
from orchestrator_svc.store.audit import AuditStore
from orchestrator_svc.store.blobs import BlobStore
from orchestrator_svc.store.children import ChildStore
from orchestrator_svc.store.claims import ClaimStore
from orchestrator_svc.store.events import EventStore
from orchestrator_svc.store.explain import ExplainStore
from orchestrator_svc.store.inputs import InputStore
from orchestrator_svc.store.progress import ProgressStore
from orchestrator_svc.store.queues import QueueStore
from orchestrator_svc.store.repeats import RepeatStore
from orchestrator_svc.store.sessions import SessionStore
from orchestrator_svc.store.submissions import SubmissionStore
from orchestrator_svc.store.task_metrics import TaskMetricsStore
from orchestrator_svc.store.tasks import TaskStore
from orchestrator_svc.store.upkeep import UpkeepStore
from orchestrator_svc.store.workers import WorkerStore

__all__ = [
    "AdmissionStore",
    "AttemptFeedStore",
    "AttemptStore",
    "AuditStore",
    "BlobStore",
    "ChildStore",
    "ClaimStore",
    "EventStore",
    "ExplainStore",
    "InputStore",
    "ProgressStore",
    "QueueStore",
    "RepeatStore",
    "SessionStore",
    "SubmissionStore",
    "TaskMetricsStore",
    "TaskStore",
    "UpkeepStore",
    "WorkerStore",
]
