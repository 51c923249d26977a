"""The lanes of the worker: edits in order, jobs that read, generation; the gate between them."""
