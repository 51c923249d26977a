"""A service for programs of others that are tried with it."""
