"""Speed of a running service: edits, generation, the way back, and mixed work for half an hour.

``serving`` starts a service for a benchmark and asks it.
"""
