"""The demos: an edit of the bundled model, and of real facts in a real one.

Each starts a service of its own and speaks to it over HTTP, as any client does.
"""
