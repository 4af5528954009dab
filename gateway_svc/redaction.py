"""A net for secrets that come back: taken out of what the other side answers, by value. Pure.

Not a boundary: who means to hand a secret on can write it in a way that no list of ways holds. What keeps a
secret from tools and agents is that they never get it.
"""

import base64
import json
from collections.abc import Iterable, Iterator
from urllib.parse import quote

from svc_kit.strict_json import JsonValue

REDACTED = "[redacted]"
# Shorter ones stand in honest text by chance.
LEAST_CHARACTERS = 4
_LEAST_ENCODED = 8
_BASE64_GROUP = 3


class Redaction:
    """Takes some secrets out, as they are and as hex, base64, percent-encoded or JSON-escaped text."""

    def __init__(self, secrets: Iterable[str]) -> None:
        known = {secret for secret in secrets if len(secret) >= LEAST_CHARACTERS}
        # Longest first: a secret that begins like another one leaves no rest behind.
        self._forms = sorted({form for secret in known for form in _forms(secret)}, key=len, reverse=True)

    def text(self, text: str) -> str:
        """The text without them."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, REDACTED)
        return text

    def value(self, value: JsonValue) -> JsonValue:
        """JSON in which no string, key or number holds one."""
        if not self._forms or not self._touches(json.dumps(value, ensure_ascii=False)):
            return value
        return self._without(value)

    def _touches(self, text: str) -> bool:
        # Within JSON a form may have its own marks escaped.
        return any(form in text or json.dumps(form)[1:-1] in text for form in self._forms)

    def _without(self, value: JsonValue) -> JsonValue:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(name): self._without(each) for name, each in value.items()}
        if isinstance(value, list):
            return [self._without(each) for each in value]
        if isinstance(value, bool) or value is None:
            return value
        text = json.dumps(value)
        return value if self.text(text) == text else REDACTED


def _forms(secret: str) -> Iterator[str]:
    data = secret.encode()
    yield secret
    yield json.dumps(secret)[1:-1]
    yield "".join(f"\\u{ord(each):04x}" for each in secret)
    yield "".join(f"\\u{ord(each):04X}" for each in secret)
    yield quote(secret, safe="")
    yield quote(secret, safe="").lower()
    yield "".join(f"%{byte:02x}" for byte in data)
    yield "".join(f"%{byte:02X}" for byte in data)
    yield data.hex()
    yield data.hex().upper()
    for shift in range(_BASE64_GROUP):
        # In the middle of other text: without the characters that hold bits of the neighbours, too.
        encoded = base64.b64encode(b"\0" * shift + data)
        first, spare = -(-shift * 8 // 6), (shift + len(data)) % _BASE64_GROUP
        last = (shift + len(data)) * 8 // 6
        inner = encoded[first : last if spare else None].decode()
        if len(inner) >= _LEAST_ENCODED:
            yield inner
            yield inner.translate(str.maketrans("+/", "-_"))
