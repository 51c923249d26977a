"""Measures speed and quality; nothing that is shipped imports it.

``python -m bench`` runs the benchmarks of speed (``make bench``); every other module with a command
names it in its first line.  The rooms: ``library/`` and ``service/`` measure speed, ``editors/``
how well edits hold.  Beside them lies what they share: the table of a report, its plots, the facts
that edits are timed with.
"""
