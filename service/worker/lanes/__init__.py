"""The lanes of the worker: edits in order, jobs that read, requests, generation."""
