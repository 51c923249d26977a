"""lm-eval's tasks on views of the model: which there are, answers to their requests, intervals.

Here belongs what asks a task of lm-eval; what a task asks and how an answer is judged is
lm-eval's.  Only ``tasks.py`` imports it, when the first evaluation runs; ``catalogue.py`` and
``installed.py`` need neither it nor torch, so the api may use them.
"""
