"""Interlock: run AI agents under control, every action checked, sandboxed and provably logged."""

__version__ = "0.1.0"
