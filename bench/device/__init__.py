"""Benchmarks for a machine with an accelerator, as one script that fits into eight minutes.

Here belongs what is measured on random models of real shapes.  Comparisons of two procedures on the
bundled models belong in ``bench/library`` and ``bench/service``.
"""
