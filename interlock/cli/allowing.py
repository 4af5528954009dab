"""Stores the policy of an allow; the same allow again is no error."""

from interlock.cli.problems import CliError
from interlock.client.client import Client
from interlock.client.errors import InterlockError
from interlock.gateway.v1 import policy_service_pb2 as messages


async def store_policy(
    suite: Client, policy: messages.Policy, *, dry_run: bool = False
) -> tuple[messages.Policy, bool]:
    """The stored policy, and whether it is new. Raises CliError when the id stands for something else."""
    try:
        made = await suite.call(
            suite.policies.CreatePolicy, messages.CreatePolicyRequest(policy=policy, validate_only=dry_run)
        )
    except InterlockError as error:
        if error.reason != "NAME_TAKEN":
            raise
    else:
        return made.policy, True
    stored = await suite.call(suite.policies.GetPolicy, messages.GetPolicyRequest(policy_id=policy.policy_id))
    said, known = (
        (each.cedar, each.mode or messages.POLICY_MODE_ENFORCE, each.expire_time)
        for each in (policy, stored.policy)
    )
    if said != known:
        raise CliError(
            f"Policy {policy.policy_id} exists already and says something else, in its text, its mode"
            f" or until when:\n{stored.policy.cedar}",
            "Give this one another --id, or change that one: interlock policies update.",
            reason="NAME_TAKEN",
        )
    return stored.policy, False
