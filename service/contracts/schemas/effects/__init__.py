"""Requests and answers about what edits did to a model: explanations, drift."""
