"""Versions as files, one module for each format."""
