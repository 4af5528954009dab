"""How a stored call was decided, by the policies as they stood then."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gateway_svc.calls import Calls
from gateway_svc.policy import Policy
from gateway_svc.policy_store import PolicyStore
from gateway_svc.tool_call import ToolCall
from svc_kit.identity.principal import SYSTEM_TENANT


class Spoken(NamedTuple):
    """A policy by the name that decisions gave it; of tenant `system`, or forgotten: without its text."""

    policy_id: str
    version: int
    policy: Policy | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """A call, and the policies that had a say in it."""

    call: ToolCall
    deciding: Sequence[Spoken]
    shadow: Sequence[Spoken]


class DecisionRecords:
    """Of one tenant at a time."""

    def __init__(self, calls: Calls, store: PolicyStore) -> None:
        self._calls = calls
        self._store = store

    async def get(self, tenant: str, call_id: str) -> DecisionRecord:
        """Raises INVALID_FIELDS or TOOL_CALL_NOT_FOUND."""
        call = await self._calls.get(tenant, call_id)
        named = [*map(_split, call.policy_ids), *map(_split, call.shadow_policy_ids)]
        # Of what holds everywhere a tenant gets the name and not the text.
        foreign = f"{SYSTEM_TENANT}/"
        own = [each for each in named if not each[0].startswith(foreign)]
        stored = await self._store.find_versions(tenant, own) if own else []
        found = {(each.policy_id, each.version): each for each in stored}
        return DecisionRecord(
            call=call,
            deciding=_spoken(call.policy_ids, found),
            shadow=_spoken(call.shadow_policy_ids, found),
        )


def _split(spoken: str) -> tuple[str, int]:
    policy_id, _, version = spoken.partition("@")
    # What was decided before policies had versions was decided by the first.
    return policy_id, int(version or 1)


def _spoken(names: Iterable[str], found: dict[tuple[str, int], Policy]) -> list[Spoken]:
    return [Spoken(*each, found.get(each)) for each in map(_split, names)]
