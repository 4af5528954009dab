"""`python -m gateway_svc` serves; `python -m gateway_svc migrate` brings the database to its schema."""

import sys

from gateway_svc.server import serve
from svc_kit.migrations import migrate_main
from svc_kit.server import run_main


def main() -> None:
    """Serve or migrate."""
    match sys.argv[1:]:
        case []:
            run_main(serve())
        case ["migrate"]:
            migrate_main("gateway_svc")
        case _:
            sys.exit("usage: python -m gateway_svc [migrate]")


if __name__ == "__main__":
    main()
