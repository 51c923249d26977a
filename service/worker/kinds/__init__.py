"""The kinds of jobs: one module each computes what its jobs ask for."""
