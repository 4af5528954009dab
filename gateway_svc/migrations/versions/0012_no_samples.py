"""Take no samples of what can be erased: the planner's statistics hold values of rows, and outlive them."""

from svc_kit.migrations import without_samples

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    without_samples(
        {
            "tool_call": (
                "argument_digest",
                "message",
                "error_message",
                "result_json",
                "verdicts",
                "receipt_payload",
                "receipt_signature",
            ),
            "approval": ("argument_digest", "arguments_json", "decision_reason"),
            "audit_payload": ("body",),
            "outbox": ("body",),
        }
    )
