"""The gateway: every tool call of every agent is checked, recorded and executed here."""
