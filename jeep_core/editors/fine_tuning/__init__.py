"""Fine-tuning of a few matrices in passes over all facts, shared by the editors that do it."""
