"""Shared parts of editors with a trained network: hyper-parameters, networks, files, training."""
