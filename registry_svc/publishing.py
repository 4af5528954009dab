"""From a spec as it came to a draft that may be published: checked, and with its bindings locked."""

from collections.abc import Mapping
from typing import Any

from registry_svc import errors, schemas, specs
from registry_svc.catalog import Catalog, Draft
from registry_svc.records import Kind, Summary, Version
from svc_kit import strict_json
from svc_kit.errors import InvalidArgument, NotFound, Violation, invalid

_FLAWS = {Kind.TOOL: specs.tool_flaws, Kind.AGENT: specs.agent_flaws}


class Publisher:
    """Publishes versions of tools and agents."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def publish(
        self,
        kind: Kind,
        tenant: str,
        name: str,
        version: str,
        spec: Mapping[str, Any],
        *,
        actor: str,
        validate_only: bool,
    ) -> Version:
        """Check everything, lock an agent's bindings, and publish.

        Raises InvalidArgument with every violation, NotFound, AlreadyExists or FailedPrecondition.
        """
        _check(kind, spec)
        # An unknown agent is named before its bindings are looked at.
        await self._catalog.get(kind, tenant, name)
        if kind is Kind.AGENT:
            spec = await self._with_locks(tenant, spec)
        draft = Draft(kind=kind, tenant=tenant, name=name, version=version, spec=spec, summary=_summary(spec))
        return await self._catalog.publish(draft, actor=actor, validate_only=validate_only)

    async def _with_locks(self, tenant: str, spec: Mapping[str, Any]) -> dict[str, Any]:
        """The spec, each binding with the version and digest that the agent version keeps for ever."""
        flaws: list[Violation] = []
        locked = dict(spec)
        locked["tools"] = await self._locked(Kind.TOOL, tenant, spec.get("tools", []), "spec.tools", flaws)
        if agents := spec.get("llm", {}).get("agents"):
            agents = await self._locked(Kind.AGENT, tenant, agents, "spec.llm.agents", flaws)
            locked["llm"] = {**spec["llm"], "agents": agents}
        if flaws:
            raise invalid(flaws)
        return locked

    async def _locked(
        self, kind: Kind, tenant: str, bindings: list[dict[str, str]], field: str, flaws: list[Violation]
    ) -> list[dict[str, str]]:
        what = kind.value.lower()
        locked = []
        for index, binding in enumerate(bindings):
            name, version = binding[what], binding.get("version", "")
            try:
                found = await self._catalog.get_version(kind, tenant, name, version)
            except NotFound as error:
                raise errors.version_not_found(kind, name, version) from error
            if binding.get("digest") and binding["digest"] != found.digest:
                said = f"version {found.version} has digest {found.digest}"
                flaws.append(Violation(f"{field}[{index}].digest", said))
            locked.append({what: found.name, "version": found.version, "digest": found.digest})
        return locked


def _check(kind: Kind, spec: Mapping[str, Any]) -> None:
    if flaws := [Violation(field, message) for field, message in _FLAWS[kind](spec)]:
        raise invalid(flaws)
    found = [
        *_schema_violations(spec, "input_schema_json", must_be_object=True, required=kind is Kind.TOOL),
        *_schema_violations(spec, "output_schema_json", must_be_object=False, required=False),
    ]
    if found:
        raise errors.schema_invalid(found)


def _schema_violations(
    spec: Mapping[str, Any], name: str, *, must_be_object: bool, required: bool
) -> list[Violation]:
    text = spec.get(name, "")
    field = f"spec.{name}"
    if not text:
        return [Violation(field, "required: a JSON Schema of the arguments")] if required else []
    try:
        schema = strict_json.parse(text, field=field, max_bytes=schemas.MAX_BYTES)
    except InvalidArgument as error:
        return list(error.violations)
    return [Violation(field, said) for said in schemas.problems(schema, must_be_object=must_be_object)]


def _summary(spec: Mapping[str, Any]) -> Summary:
    return Summary(
        description=spec.get("description", ""),
        capabilities=tuple(spec.get("capabilities", ())),
        tools=tuple(binding["tool"] for binding in spec.get("tools", ())),
    )
