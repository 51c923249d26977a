"""The needs of an edit beside its editor: automatic hyper-parameters, prefixes, guards.

No module of this room is a kind of job.
"""
