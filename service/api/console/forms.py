"""Forms as browsers send them."""

from __future__ import annotations

from urllib.parse import parse_qsl

from fastapi import Request

from service.api.http.bodies import media_type
from service.api.http.problems import ApiProblem, parameter_error

FORM = "application/x-www-form-urlencoded"
MOST_FIELDS = 20_000


class Form:
    """The fields of a form in their order; a name may come more than once."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = pairs

    def get(self, name: str, default: str = "") -> str:
        """The first value of a field, ``default`` where it is missing."""
        return next((value for found, value in self._pairs if found == name), default)

    def all(self, name: str) -> list[str]:
        """All values of a field."""
        return [value for found, value in self._pairs if found == name]

    def lines(self, name: str) -> list[str]:
        """The lines of a field that hold more than blanks, as they are."""
        text = self.get(name).replace("\r\n", "\n")
        return [line for line in text.split("\n") if line.strip()]


async def read_form(request: Request) -> Form:
    """The form in a request's body; an empty body is an empty form.

    Raises:
        ApiProblem: 415 for another content type, 400 for what is no form.
    """
    body = await request.body()
    kind = media_type(request)
    if kind not in ("", FORM):
        detail = f"the body must be {FORM}, not {kind}"
        error = parameter_error("Content-Type", "unsupported_media_type", detail)
        raise ApiProblem("unsupported_media_type", detail, [error])
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MOST_FIELDS,
        )
    except ValueError as error:
        raise ApiProblem("bad_request", f"the body is no form: {error}") from None
    return Form(pairs)
