"""Targets: servers of other projects are brought to a version and kept there, beside all lanes."""
