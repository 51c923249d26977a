"""MEMIT: values spread over a range of layers (Meng et al. 2023)."""
