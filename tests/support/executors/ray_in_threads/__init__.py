"""A module `ray`, for ``sys.path``: nothing else is imported from here."""
