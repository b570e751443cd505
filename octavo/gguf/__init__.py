"""GGUF files as both towers need them: header, metadata, and the configuration that follows from it. No torch here."""
