"""Decoding of generation requests: the loop and the replies."""
