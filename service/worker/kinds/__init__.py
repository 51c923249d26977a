"""The kinds of jobs: one module each, named by its entry in `service.contracts.kinds`.

``run(task)`` computes what a job of the read lane asks for.  ``prepare(task)`` brings a job that
writes versions up to date and returns its remaining work.
"""
