"""Parts of blocks with gradients by hand: fewer passes over memory where rows are short.

A part belongs here if its gradient, as autograd derives it, costs more than the part itself, and
if what it replaces can be told from its attributes and from its numbers (`placing.py`).
"""
