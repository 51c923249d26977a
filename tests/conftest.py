"""Options of all tests, and one width of the terminal for every command that they run.

A console keeps the ``COLUMNS`` that it finds when it is made; made without one, it asks each time.
"""

import os

os.environ.pop("COLUMNS", None)

import service.cli.common  # noqa: F401  (makes the consoles)

pytest_plugins = ["support.durations"]
