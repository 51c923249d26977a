"""Rows of facts that rise through the blocks while matrices of these are written."""
