"""What api, worker, store and clients agree on: jobs, error codes, schemas, messages."""
