"""Commands that show what edits did: explanations, drift."""
