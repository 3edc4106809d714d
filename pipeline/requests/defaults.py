"""What flags that are not given stand for."""

PROMPT_BATCH = 16
"""Prompts generated at once."""
