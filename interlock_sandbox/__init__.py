"""Runs untrusted Python, each call in a single-use sandbox; pure Python and ctypes, Linux only."""

# Running code
from interlock_sandbox.conversation import Host

# Errors
from interlock_sandbox.errors import ProfileUnknown, SandboxClosed, SandboxError, SandboxUnavailable

# How well it is isolated
from interlock_sandbox.levels import IsolationLevel, Layer, LayerStatus, SandboxStatus
from interlock_sandbox.limits import Limits

# What came of it
from interlock_sandbox.outcome import Captured, Outcome, OutcomeKind, ToolFailure, Usage
from interlock_sandbox.probe import probe, probe_now
from interlock_sandbox.profile import Profile
from interlock_sandbox.program import ToolProgram
from interlock_sandbox.sandbox import Sandbox

__all__ = [
    "Captured",
    "Host",
    "IsolationLevel",
    "Layer",
    "LayerStatus",
    "Limits",
    "Outcome",
    "OutcomeKind",
    "Profile",
    "ProfileUnknown",
    "Sandbox",
    "SandboxClosed",
    "SandboxError",
    "SandboxStatus",
    "SandboxUnavailable",
    "ToolFailure",
    "ToolProgram",
    "Usage",
    "probe",
    "probe_now",
]
