"""What editors that fine-tune a few matrices in passes over all facts share."""
