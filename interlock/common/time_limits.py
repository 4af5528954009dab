"""How long calls may take: what one service allows, the others wait for."""

TOOL_SECONDS = 300.0
"""The longest time that a tool may ask for."""

MODEL_SECONDS = 600.0
"""The longest time of a call of a language model."""
