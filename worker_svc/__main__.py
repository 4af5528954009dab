"""`python -m worker_svc` runs one worker process."""

import sys

from worker_svc.config import WorkerSettings
from worker_svc.server import serve

sys.exit(serve(WorkerSettings()))
