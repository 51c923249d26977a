"""Counts of ``jeep plan`` against what edits take, by kind of editor."""
