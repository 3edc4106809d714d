"""Values of flags that are not given."""

PROMPT_BATCH = 16
"""Prompts generated at once."""
