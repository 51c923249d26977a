"""Running the processes: logs, traces, metrics page, health, the embedded server."""
