"""Tensor files that are whole or absent, and JSON records with their own hash (no torch)."""
