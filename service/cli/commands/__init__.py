"""The commands of ``jeep``: one module for each group, with the daily verbs that belong to it.

What belongs here: functions with typer's annotations that turn flags into one call of the client,
of the store or of the library, and show the answer.  A new command also needs its line in
``service/cli/tree.py`` (a verb) or in its group.
"""
