"""Commands that bring versions to programs outside this service."""
