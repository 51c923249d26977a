"""Requests and answers about what edits do to a model: guards, explanations, drift, checks."""
