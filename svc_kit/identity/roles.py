"""Roles, and which role includes which."""

from collections.abc import Iterable
from enum import StrEnum


class Role(StrEnum):
    """What a caller may be; each RPC names the roles that it takes."""

    VIEWER = "VIEWER"  # reads tasks and definitions of its tenant, no payloads of the audit log
    DEVELOPER = "DEVELOPER"  # also submits and cancels tasks
    ADMIN = "ADMIN"  # also runs queues and policies of its tenant
    SUPER_ADMIN = "SUPER_ADMIN"  # also edits the registry of its tenant; in tenant `system`, of every tenant
    AUDITOR = "AUDITOR"  # reads audit payloads, and nothing else by it
    SUBMITTER = "SUBMITTER"  # an internal service that submits tasks
    WORKER = "WORKER"  # claims tasks of the pools that its token names
    SERVICE = "SERVICE"  # a service of the suite itself; acts for the tenant that its message names


_LADDER = (Role.VIEWER, Role.DEVELOPER, Role.ADMIN, Role.SUPER_ADMIN)

# What only an issuer inside the suite may assert: these roles reach the internal doors.
INTERNAL_ROLES = frozenset({Role.WORKER, Role.SERVICE})


def implied(roles: Iterable[Role]) -> frozenset[Role]:
    """`roles` and all that they include: each step of the ladder includes those below it."""
    held = set(roles)
    for rank, role in enumerate(_LADDER):
        if role in held:
            held.update(_LADDER[:rank])
    return frozenset(held)
