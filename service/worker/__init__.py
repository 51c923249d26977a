"""The worker process: the model, loaded once; an edit lane and a generation lane over it."""
