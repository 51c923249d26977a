"""Requests and answers about what edits do to a model: outcomes, guards, checks, drift."""
