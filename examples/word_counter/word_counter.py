"""An agent in Python: cuts a text into parts, has them counted side by side, and adds up what came back."""

import asyncio
from collections import Counter
from typing import Any

from interlock.agent import AgentContext, ToolError

PART_CHARACTERS = 4_000


async def run(context: AgentContext, task: dict[str, Any]) -> dict[str, Any]:
    """The most frequent words of `text`; `skipped` counts the parts that the tool could not read."""
    found = await asyncio.gather(*(count(context, part) for part in parts(task["text"])))
    total: Counter[str] = Counter()
    for words in found:
        total.update(words or {})
    return {
        "words": total.total(),
        "most_frequent": [[word, times] for word, times in total.most_common(task.get("top", 10))],
        "parts": len(found),
        "skipped": found.count(None),
    }


async def count(context: AgentContext, part: str) -> dict[str, int] | None:
    """How often each word occurs; None where the tool failed, which is no reason to give up the others."""
    try:
        words: dict[str, int] = await context.call_tool("count_words", {"text": part})
    except ToolError as error:
        context.log(f"skipped a part: {error}")
        return None
    return words


def parts(text: str) -> list[str]:
    """The text in parts of bounded size, cut between paragraphs where that is possible.

    The same text is always cut the same way, so that another attempt finds its steps in the journal.
    """
    cut: list[str] = []
    for paragraph in text.split("\n\n"):
        pieces = range(0, len(paragraph), PART_CHARACTERS)
        for piece in (paragraph[start : start + PART_CHARACTERS] for start in pieces):
            if cut and len(cut[-1]) + len(piece) < PART_CHARACTERS:
                cut[-1] += f"\n\n{piece}"
            else:
                cut.append(piece)
    return cut
