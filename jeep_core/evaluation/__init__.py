"""Evaluation: suites of cases, metrics, and the comparison of editors."""
