"""Files that are whole or absent, and JSON records that carry their own hash; no torch."""
