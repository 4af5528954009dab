"""How agents run: a fixed plan, or a Python function."""
