"""Trained networks that turn gradients into edits: MEND and MALMEN."""
