"""Runs the migrations of all services in one process, because importing the tools takes longer than the work.

Run by the supervisor as `python -m interlock_suite.migrate PACKAGE…`; the URLs come by the environment, under
the names that `python -m <package> migrate` reads.
"""

import sys

from svc_kit.migrations import migrate_main


def main() -> None:
    """Migrate the named packages, one after the other; exits with 1 and a reason at the first that cannot."""
    for package in sys.argv[1:]:
        migrate_main(package)


if __name__ == "__main__":
    main()
