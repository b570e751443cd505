"""Module paths that vLLM users have in their scripts; nothing lives here."""
