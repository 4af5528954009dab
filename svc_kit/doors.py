"""What a service publishes, read from its descriptors: which methods, on which door, for which roles."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import grpc
from google.protobuf import descriptor_pool

from interlock.common.v1 import options_pb2
from svc_kit.identity.roles import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One gRPC service of a server."""

    name: str  # full proto name, "interlock.orchestrator.v1.OrchestratorService"
    add: Callable[[grpc.aio.Server], None]  # registers the servicer; called once for each door
    roles: Mapping[str, frozenset[Role]]  # by method name, "SubmitTask"; any one of the roles is enough
    waiting: frozenset[str] = frozenset()  # unary methods that wait for something; a drain ends them


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodTable:
    """All methods of a server by full name, "/package.Service/Method"."""

    roles: Mapping[str, frozenset[Role]]
    public: frozenset[str]
    waiting: frozenset[str]

    @property
    def internal(self) -> frozenset[str]:
        """What the public door refuses."""
        return frozenset(self.roles) - self.public


def method_table(services: Iterable[Service]) -> MethodTable:
    """ValueError if a method has no roles, or a service names a method that does not exist."""
    roles: dict[str, frozenset[Role]] = {}
    public: set[str] = set()
    waiting: set[str] = set()
    for service in services:
        methods = _doors(service.name)
        _check(service, methods.keys())
        for method, is_public in methods.items():
            full_name = f"/{service.name}/{method}"
            roles[full_name] = frozenset(service.roles[method])
            if is_public:
                public.add(full_name)
            if method in service.waiting:
                waiting.add(full_name)
    return MethodTable(roles=roles, public=frozenset(public), waiting=frozenset(waiting))


def _doors(service: str) -> dict[str, bool]:
    """Whether each method is for the public door. A method that does not say so is not."""
    descriptor = descriptor_pool.Default().FindServiceByName(service)
    return {
        method.name: method.GetOptions().Extensions[options_pb2.door] == options_pb2.DOOR_PUBLIC
        for method in descriptor.methods
    }


def _check(service: Service, methods: Iterable[str]) -> None:
    declared, existing = set(service.roles), set(methods)
    if missing := sorted(existing - declared):
        raise ValueError(f"{service.name}: no roles are declared for {', '.join(missing)}")
    if unknown := sorted(declared - existing):
        raise ValueError(f"{service.name}: roles are declared for unknown methods {', '.join(unknown)}")
    if strange := sorted(service.waiting - existing):
        raise ValueError(f"{service.name}: unknown methods are said to wait: {', '.join(strange)}")
    if empty := sorted(method for method in existing if not service.roles[method]):
        raise ValueError(f"{service.name}: nobody may call {', '.join(empty)}: name at least one role")
