"""Everything that knows transformers: checks, loading, families, views, deltas, masks, hooks.

Also where models are fetched by name (``catalogue``, ``packages``, ``library``) and converted
from GGUF files (``gguf``); these need no torch.
"""
