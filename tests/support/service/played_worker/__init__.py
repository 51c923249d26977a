"""A worker without a model, played against a real queue and a real store.

``worker``: `PlayedWorker`, which opens the store, takes the lease and works.  ``work()`` carries
out what is queued and ends; as a context manager it works in the background and answers requests.
``computing``: what stands for the model while it edits.  ``answers``: how requests go, which their
prompts and reasons decide.  ``lanes``: queue and edit lane, which tests can hold.  ``jobs``: jobs
as the api journals them.  ``python -m support.service.played_worker`` is a process that stands for
a worker's and computes nothing.  Nothing is imported here, so that it starts at once.
"""
