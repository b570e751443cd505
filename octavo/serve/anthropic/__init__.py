"""Anthropic's Messages: the same conversations in the words of its API."""
