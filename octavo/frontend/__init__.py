"""People's requests to token sequences and back: text, templates, streams. No torch here."""
