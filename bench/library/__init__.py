"""Speed of the library in this process: optimisation of values, second moments, the closed form.

Each is measured against a plain way to do the same, which is a part of its module or in ``plain``.
"""
