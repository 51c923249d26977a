"""HTTP without a subject: access, bodies, problems, limits, paging, following of jobs."""
