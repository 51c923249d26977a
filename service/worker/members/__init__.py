"""The parts that make a process one of a store's workers.

What belongs here: ``common.py`` has what the writer and followers share (the model, threads,
heartbeats), ``publishing.py`` what the writer makes ready, ``joining.py`` what a follower must have
in common with it, ``head.py`` how a follower learns of a new head, ``follower.py`` its process.
The writer's process is ``service/worker/process.py``.
"""
