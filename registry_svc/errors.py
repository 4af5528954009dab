"""What can go wrong in the registry, each with its reason and its fix."""

from interlock.common.v1 import errors_pb2 as reasons
from registry_svc.records import Kind
from svc_kit.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Violation

_NOT_FOUND = {
    Kind.AGENT: reasons.ERROR_REASON_AGENT_NOT_FOUND,
    Kind.TOOL: reasons.ERROR_REASON_TOOL_NOT_FOUND,
}
_VERSION_NOT_FOUND = {
    Kind.AGENT: reasons.ERROR_REASON_AGENT_VERSION_NOT_FOUND,
    Kind.TOOL: reasons.ERROR_REASON_TOOL_VERSION_NOT_FOUND,
}


def not_found(kind: Kind, name: str) -> NotFound:
    """No such agent or tool in the caller's tenant."""
    return NotFound(_NOT_FOUND[kind], f"no {kind} named {name!r}", metadata={str(kind): name})


def version_not_found(kind: Kind, name: str, version: str) -> NotFound:
    """No such version; an empty version means that none is published at all."""
    said = (
        f"{kind} {name!r} has no version {version!r}"
        if version
        else f"{kind} {name!r} has no published version"
    )
    return NotFound(_VERSION_NOT_FOUND[kind], said, metadata={str(kind): name, "version": version})


def name_taken(kind: Kind, name: str) -> AlreadyExists:
    """A resource of that kind and name exists."""
    return AlreadyExists(
        reasons.ERROR_REASON_NAME_TAKEN, f"{kind} {name!r} exists", metadata={str(kind): name}
    )


def version_exists(kind: Kind, name: str, version: str) -> AlreadyExists:
    """That version is published with other content; versions never change."""
    return AlreadyExists(
        reasons.ERROR_REASON_VERSION_EXISTS,
        f"version {version} of {kind} {name!r} is published with other content",
        metadata={str(kind): name, "version": version},
        help="publish the change under a higher version",
    )


def version_too_low(kind: Kind, name: str, version: str, newest: str) -> FailedPrecondition:
    """The version is not above the newest one."""
    return FailedPrecondition(
        reasons.ERROR_REASON_VERSION_TOO_LOW,
        f"version {version} of {kind} {name!r} is not above the newest, {newest}",
        metadata={str(kind): name, "version": version, "newest": newest},
        help=f"publish under a version above {newest}",
    )


def etag_mismatch(kind: Kind, name: str) -> Aborted:
    """Somebody changed it since the etag was read."""
    return Aborted(
        reasons.ERROR_REASON_ETAG_MISMATCH,
        f"{kind} {name!r} changed since its etag was read",
        metadata={str(kind): name},
        help="read it again and decide again",
    )


def schema_invalid(violations: list[Violation]) -> InvalidArgument:
    """One or more JSON Schemas may not be published."""
    listed = "; ".join(f"{violation.field}: {violation.message}" for violation in violations)
    return InvalidArgument(reasons.ERROR_REASON_SCHEMA_INVALID, listed, violations=violations)
