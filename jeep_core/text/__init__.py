"""Strings and tokens: how prompt and answer are joined, encoded and split into words; no torch."""
