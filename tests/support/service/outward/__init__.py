"""Servers of others as tests play them, and what leaves the service."""
