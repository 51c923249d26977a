"""The formats of suites: one module each, and the registry that lists them."""
