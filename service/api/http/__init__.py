"""HTTP without a subject: access, bodies, problems, limits, paging, calls of the worker."""
