"""Care of a store: backup, verification and repair, retention, usage."""
