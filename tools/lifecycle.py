"""The diagram of a task's states in the documentation, drawn from the table that the code obeys.

`python -m tools.lifecycle` writes it; `--check` tells whether the page shows the machine as it is.
"""

import sys
from collections import defaultdict

from orchestrator_svc.lifecycle import LEGAL, TERMINAL, TaskState
from tools.protos import ROOT

PAGE = ROOT / "docs" / "task_lifecycle.md"
_BEGIN, _END = "<!-- drawn by tools.lifecycle -->", "<!-- end of the drawing -->"


def drawing() -> str:
    """The machine as Mermaid draws it; one arrow for all moves between the same two states."""
    arrows: defaultdict[tuple[TaskState, TaskState], list[str]] = defaultdict(list)
    for (source, move), target in LEGAL.items():
        arrows[source, target].append(move.lower().replace("_", " "))
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {TaskState.SUBMITTED}: submit"]
    lines += [f"    {source} --> {target}: {', '.join(moves)}" for (source, target), moves in arrows.items()]
    lines += [f"    {state} --> [*]" for state in TaskState if state in TERMINAL]
    return "\n".join([*lines, "```"])


def page(text: str) -> str:
    """The page with the drawing of today; raises ValueError when it has no place for one."""
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError(f"{PAGE.name} has no place for the drawing, between {_BEGIN} and {_END}")
    return f"{before}{begin}\n{drawing()}\n{end}{after}"


def main() -> int:
    """Write the page, or only compare it; 0 = it is as it should be."""
    text = PAGE.read_text("utf-8")
    fresh = page(text)
    if "--check" in sys.argv[1:]:
        if text != fresh:
            print("the diagram of a task's states is not that of the code: python -m tools.lifecycle")
        return int(text != fresh)
    PAGE.write_text(fresh, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
