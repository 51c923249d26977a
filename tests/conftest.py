"""Options of all tests."""

pytest_plugins = ["support.durations"]
