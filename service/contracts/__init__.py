"""The terms of api, worker, store and clients: jobs and their kinds, codes, schemas, messages."""
