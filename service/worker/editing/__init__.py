"""What an edit needs beside its editor: automatic hyper-parameters, prefixes, guards.

No module of this room is a kind of job.
"""
