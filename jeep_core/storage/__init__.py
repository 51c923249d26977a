"""Tensor files that are whole or absent, JSON records with their own hash, and whether a hub can
be asked (no torch)."""
