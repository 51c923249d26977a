"""Dialogs: shown with what they tell before anything happens, carried out, or shown again.

A dialog is asked for with GET, by any reader, and carried out with POST, which needs the scope of
its action.  One that is refused is shown again with what was filled in, the reason, and each
field's error beside the field; to a key that may not read only the reason.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response

from service.api.console.forms import read_form
from service.api.console.rendering import CHANGED, fragment
from service.api.http.access import caller_of
from service.api.http.problems import ApiProblem
from service.api.state import ApiState
from service.contracts.schemas.access import Scope

INTO_DIALOG = {"HX-Retarget": "#dialog", "HX-Reswap": "innerHTML"}
"""Headers of an answer that goes into the dialog, wherever it was asked from."""
Given = Mapping[str, str]
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Dialog:
    """A dialog about a version.

    ``fields``: what its fields begin with.  ``tell``: what its template says beforehand about the
    version that a path names.  ``done``: the template of what is shown once it was carried out.
    """

    template: str
    done: str
    fields: Given
    tell: Callable[[Request, ApiState, str], Awaitable[Values]]

    async def show(
        self,
        request: Request,
        state: ApiState,
        ref: str,
        given: Given | None = None,
        problem: ApiProblem | None = None,
    ) -> Response:
        """The dialog, with what was filled in and the reason if it was refused.

        Raises:
            ApiProblem: as the interface answers.
        """
        status, headers = 200, {}
        if problem is not None:
            status, headers = problem.status, INTO_DIALOG | problem.headers
        told = await self.tell(request, state, ref)
        filled = {**self.fields, **(given or {})}
        return fragment(
            request, self.template, status, headers, problem=problem, given=filled, **told
        )

    async def carry_out(
        self,
        request: Request,
        state: ApiState,
        ref: str,
        act: Callable[[Given], Awaitable[Values]],
    ) -> Response:
        """The outcome of ``act``, which takes the fields without blanks around them.

        Raises:
            ApiProblem: ``act`` was refused, and the key may not read what the dialog tells.
        """
        form = await read_form(request)
        given = {name: form.get(name).strip() for name in self.fields}
        try:
            values = await act(given)
        except ApiProblem as problem:
            if not caller_of(request).may(Scope.READ):
                raise
            return await self.show(request, state, ref, given, problem)
        return fragment(request, self.done, headers=CHANGED, **values)
