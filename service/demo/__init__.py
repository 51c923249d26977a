"""The demonstrations: one story, told with a bundled model and with a real one."""
