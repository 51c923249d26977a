"""Evaluations and probes: starting them, their figures, comparisons, cases."""
