"""The worker process: the model, loaded once, the lanes that use it, and their gate."""
