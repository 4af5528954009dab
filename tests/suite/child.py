"""A small real service: serves gRPC health on its internal door and tells what it was given.

usage: child.py NAME
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path


def _stopped(prefix: str, name: str) -> None:
    with Path(os.environ[prefix + "KEYS_DIR"]).parent.with_name("stops.txt").open("a") as file:
        file.write(name + "\n")


def main(name: str) -> None:
    prefix = f"INTERLOCK_{name.upper()}_"
    if reason := os.environ.get(prefix + "BROKEN"):
        sys.exit(reason)
    told = Path(os.environ[prefix + "TOKEN_FILE"]).with_name(f"{name}.told.json")
    # A grandchild in a session of its own, as a careless service might leave one.
    grandchild = subprocess.Popen(["sleep", "300"], start_new_session=True)
    told.write_text(json.dumps({"env": dict(os.environ), "pid": os.getpid(), "grandchild": grandchild.pid}))
    if ready := os.environ.get(prefix + "READY_FILE"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        Path(ready).touch()
        signal.sigwait([signal.SIGTERM])
        _stopped(prefix, name)
        return
    # Here, because importing it takes most of the start.
    from concurrent import futures

    import grpc
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(os.environ[prefix + "INTERNAL_ADDRESS"])
    server.start()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)

    def stop(*_: object) -> None:
        _stopped(prefix, name)
        if os.environ.get(prefix + "STUBBORN"):
            return
        grandchild.kill()
        server.stop(None)

    signal.signal(signal.SIGTERM, stop)
    server.wait_for_termination()


if __name__ == "__main__":
    main(sys.argv[1])
