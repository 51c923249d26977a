"""The web console: pages that a person reads and acts in, made here of what the HTTP api answers.

A module per page lies in ``pages/``, its template in ``templates/``, scripts and styles in
``static/``.  A page asks the api in this process (`service.api.console.calls`) and has no rules of
its own about who may do what.
"""

from service.api.console.routes import add_console

__all__ = ["add_console"]
