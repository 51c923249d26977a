"""Versions as files, one module for each format; `formats` lists them."""
