"""The terms of an edit, without torch: facts, hyper-parameters, presets, positions, matrices.

The api may import everything here.  Nothing here reads a model or a tensor.
"""
