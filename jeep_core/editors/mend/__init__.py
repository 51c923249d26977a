"""MEND: a trained network turns gradients into an update (Mitchell et al. 2022)."""
