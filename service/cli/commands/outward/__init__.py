"""Commands for what leaves the service for other programs: exported versions."""
