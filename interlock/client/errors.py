"""What the client raises."""

from interlock.common.remote_error import RemoteError


class InterlockError(RemoteError):
    """A call failed; `code` is the gRPC status code, `reason` a name of the contract's ErrorReason.

    `violations` lists every field that is wrong, `help` is one sentence on how to mend it, `retry_after` the
    seconds after which the server wants to be asked again, and `request_id` finds the call in its log.
    """
