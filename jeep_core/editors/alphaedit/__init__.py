"""AlphaEdit: MEMIT within the null space of preserved keys (Fang et al. 2025)."""
