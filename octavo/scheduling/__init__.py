"""Which tokens to compute next, and where their keys and values go. No torch."""
