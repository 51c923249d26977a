"""What api, worker, store and clients agree on: jobs and their kinds, codes, schemas, messages."""
