"""What a model agent may use up for one task, over all attempts: a replayed call counts too."""

from dataclasses import dataclass
from typing import Any

from interlock.agent import AgentError
from interlock.registry.v1.agent_pb2 import LlmRuntime

DEFAULT_STEPS = 20
DEFAULT_TOKENS = 200_000
BUDGET_EXCEEDED = "BUDGET_EXCEEDED"


@dataclass(slots=True, kw_only=True)
class Budget:
    """Limits, and what was used up so far; a limit of 0 is none. Cost in millionths of a currency."""

    max_steps: int
    max_tokens: int
    max_cost_micros: int
    steps: int = 0
    tokens: int = 0
    cost_micros: int = 0

    @classmethod
    def of(cls, runtime: LlmRuntime) -> "Budget":
        """As an agent version says."""
        return cls(
            max_steps=runtime.max_steps or DEFAULT_STEPS,
            max_tokens=runtime.max_tokens or DEFAULT_TOKENS,
            max_cost_micros=runtime.max_cost_micros,
        )

    def begin(self) -> int:
        """Number of the next model call, from 1; raises AgentError BUDGET_EXCEEDED when there may be none."""
        for what, used, limit in (
            ("model calls", self.steps, self.max_steps),
            ("tokens", self.tokens, self.max_tokens),
            ("millionths of cost", self.cost_micros, self.max_cost_micros),
        ):
            if limit and used >= limit:
                raise AgentError(
                    f"the agent has used {used} {what} for this task, of {limit} that its version allows",
                    error_class=BUDGET_EXCEEDED,
                    retryable=False,
                )
        self.steps += 1
        return self.steps

    def add(self, usage: dict[str, Any]) -> None:
        """Count what a call used up, as the gateway tells it."""
        self.tokens += usage.get("input_tokens", 0) + usage.get("output_tokens", 0)
        self.cost_micros += usage.get("cost_micros", 0)
