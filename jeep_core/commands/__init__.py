"""Work from a terminal that needs the library and no running service.

What belongs here: one module for each command, with a function of keyword arguments that does the
whole work, shows progress on standard error, and prints or yields the lines of its result.  It
raises where something is wrong; flags, defaults from settings and exit codes are the matter of
``service.cli``.  A module with many arguments keeps them in a class ``Options``.
"""

from jeep_core.errors import JeepError


class WrongArgument(JeepError):
    """An argument of a command that makes no sense, whatever the model; the message names it."""

    code = "invalid_request"
