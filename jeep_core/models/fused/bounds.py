"""Bounds of what is kept for models in bfloat16; read by plans, so without torch."""

KEPT_BYTES = 1 << 30
"""Bytes of a model's rounded matrices up to which they are kept from one edit to the next."""
