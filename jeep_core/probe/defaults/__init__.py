"""Hyper-parameters of an edit that names none: kept probes, and probes of what is known."""
