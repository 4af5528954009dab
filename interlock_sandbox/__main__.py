"""`python -m interlock_sandbox`."""

from interlock_sandbox.command_line import main

raise SystemExit(main())
