"""Between the contract's messages and the registry's records. Pure."""

import json
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from interlock.registry.v1 import agent_pb2, registry_service_pb2, tool_pb2
from registry_svc import matching, specs
from registry_svc.records import Kind, Resource, Version


def spec_from_proto(spec: Message) -> dict[str, Any]:
    """A spec as JSON with the contract's field names; what is not set is left out."""
    return json_format.MessageToDict(spec, preserving_proto_field_name=True)


def agent_to_proto(record: Resource) -> agent_pb2.Agent:
    """An agent."""
    message = agent_pb2.Agent(
        name=record.name,
        latest_version=record.latest_version,
        status=_status(record),
        description=record.summary.description,
        capabilities=record.summary.capabilities,
        etag=record.etag,
        creator=record.creator,
    )
    message.create_time.FromDatetime(record.create_time)
    message.update_time.FromDatetime(record.update_time)
    return message


def tool_to_proto(record: Resource) -> tool_pb2.Tool:
    """A tool."""
    message = tool_pb2.Tool(
        name=record.name,
        latest_version=record.latest_version,
        status=_status(record),
        etag=record.etag,
        creator=record.creator,
    )
    message.create_time.FromDatetime(record.create_time)
    message.update_time.FromDatetime(record.update_time)
    return message


def agent_version_to_proto(record: Version) -> agent_pb2.AgentVersion:
    """A version of an agent."""
    spec = json.loads(record.spec_json)
    message = agent_pb2.AgentVersion(
        agent=record.name,
        version=record.version,
        digest=record.digest,
        publisher=record.publisher,
        isolation=specs.isolation(spec),
    )
    json_format.ParseDict(spec, message.spec)
    message.create_time.FromDatetime(record.create_time)
    return message


def tool_version_to_proto(record: Version) -> tool_pb2.ToolVersion:
    """A version of a tool."""
    message = tool_pb2.ToolVersion(
        tool=record.name, version=record.version, digest=record.digest, publisher=record.publisher
    )
    json_format.ParseDict(json.loads(record.spec_json), message.spec)
    message.create_time.FromDatetime(record.create_time)
    return message


def change_to_proto(record: Resource | Version) -> registry_service_pb2.WatchRegistryResponse:
    """One change as the feed sends it."""
    message = registry_service_pb2.WatchRegistryResponse(position=record.position, tenant=record.tenant)
    if isinstance(record, Resource):
        if record.kind is Kind.AGENT:
            message.agent.CopyFrom(agent_to_proto(record))
        else:
            message.tool.CopyFrom(tool_to_proto(record))
    elif record.kind is Kind.AGENT:
        message.agent_version.CopyFrom(agent_version_to_proto(record))
    else:
        message.tool_version.CopyFrom(tool_version_to_proto(record))
    return message


def bookmark(position: int) -> registry_service_pb2.WatchRegistryResponse:
    """What says that everything up to `position` has been sent."""
    return registry_service_pb2.WatchRegistryResponse(
        position=position, bookmark=registry_service_pb2.Bookmark()
    )


def candidate_to_proto(candidate: matching.Candidate) -> registry_service_pb2.AgentCandidate:
    """One agent that can do a task."""
    return registry_service_pb2.AgentCandidate(
        agent=candidate.agent.name,
        version=candidate.agent.version,
        score=candidate.score,
        reasons=candidate.reasons,
    )


def rejected_to_proto(rejected: matching.Rejected) -> registry_service_pb2.RejectedAgent:
    """One agent that cannot."""
    return registry_service_pb2.RejectedAgent(agent=rejected.agent.name, reasons=rejected.reasons)


def _status(record: Resource) -> tool_pb2.Status.ValueType:
    return tool_pb2.STATUS_ACTIVE if record.active else tool_pb2.STATUS_DISABLED
