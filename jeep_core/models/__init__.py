"""Everything that knows transformers: checks, loading, families, views, deltas, masks, hooks."""
