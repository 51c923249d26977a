"""The model-editing service: HTTP api, job queue, versioned store, GPU worker."""
