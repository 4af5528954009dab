"""`python -m gateway_svc` serves; `python -m gateway_svc migrate` brings its database up to date."""

import sys


def main() -> None:
    """Serve or migrate."""
    # Imported as needed: a running service has no use for Alembic, a migration none for grpc.
    match sys.argv[1:]:
        case []:
            from gateway_svc.server import serve  # noqa: PLC0415
            from svc_kit.server import run_main  # noqa: PLC0415

            run_main(serve())
        case ["migrate"]:
            from svc_kit.migrations import migrate_main  # noqa: PLC0415

            migrate_main("gateway_svc")
        case _:
            sys.exit("usage: python -m gateway_svc [migrate]")


if __name__ == "__main__":
    main()
