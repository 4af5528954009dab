"""Who calls: tokens, the issuers that are trusted to mint them, and the principal of the current call."""

from svc_kit.identity.issuers import IssuersFile, TrustedIssuer
from svc_kit.identity.local_issuer import LocalIssuer
from svc_kit.identity.principal import SYSTEM_TENANT, Principal, acting_as, acting_tenant, principal
from svc_kit.identity.roles import Role, implied
from svc_kit.identity.verifier import TokenVerifier

__all__ = [
    "SYSTEM_TENANT",
    "IssuersFile",
    "LocalIssuer",
    "Principal",
    "Role",
    "TokenVerifier",
    "TrustedIssuer",
    "acting_as",
    "acting_tenant",
    "implied",
    "principal",
]
