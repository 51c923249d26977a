"""Running the processes: their start, logs, traces, metrics page, health, the embedded server."""
