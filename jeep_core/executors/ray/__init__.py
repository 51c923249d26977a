"""A Ray cluster as the executor.  Nothing here is imported unless it is asked for.

Ray runs in a process of its own (``driver.py``): where its head goes away it ends the process that
spoke to it, and it replaces handlers of signals.  Actors (``actor.py``) load the model from the
same folder as here; what is sent are facts, versions as updates, and results.
"""
