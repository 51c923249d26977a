"""Plumbing of every resource that is a job: journaling, queuing, following, showing.

What one kind of job has of its own is in its file of `service.api.resources`.
"""
