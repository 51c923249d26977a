"""A module per page of the console: its routes, and what it asks the api for its template."""
