"""ROME: one fact, one layer (Meng et al. 2022)."""
