"""PMET: MEMIT with values that also pass through attention (Li et al. 2024)."""
