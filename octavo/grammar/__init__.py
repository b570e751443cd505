"""What may come next: JSON schemas, regexes, choices, grammars and structural tags behind one Matcher. No torch."""
