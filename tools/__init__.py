"""Programs that made what the project ships; nothing here is needed when the service runs."""
