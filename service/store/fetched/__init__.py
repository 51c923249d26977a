"""A follower's copy of as much of a store as it has needed, where the store's disk is not shared.

What belongs here: ``cache.py`` has the folder, its bound and its owner, ``replica.py`` the store
that reads from it and has whatever is missing brought.  How it is brought is the worker's business.
"""
