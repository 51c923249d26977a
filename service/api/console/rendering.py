"""Templates become pages, or parts of pages.  Every text in them is escaped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from jeep_core.evaluation.metric_names import in_words
from service.api.console.navigation import offered
from service.api.http.access import CALLER
from service.api.http.sessions import TOKEN_HEADER
from service.api.state import ApiState
from service.contracts.schemas.access import Caller, Scope
from service.contracts.schemas.evaluation import MetricInterval
from service.ops.release import program_version

CHANGED = {"HX-Trigger": "jeep-changed"}
"""Header of a part after which head or jobs are others: the line at the top is loaded again."""
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


@cache
def environment() -> Environment:
    """The templates of the console, each read once."""
    made = Environment(
        loader=PackageLoader("service.api.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "age": age,
        "ago": ago,
        "compact": compact,
        "times": times,
        "filled": filled,
        "metric": in_words,
        "model_name": model_name,
        "percent": percent,
        "seconds": seconds,
        "sentence": sentence,
        "size": size,
    }
    made.tests["alike"] = alike
    return made


def page(
    request: Request,
    template: str,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **values: Any,
) -> HTMLResponse:
    """A whole page: ``template`` extends ``base.html``."""
    api: ApiState = request.app.state.api
    caller: Caller | None = request.scope.get(CALLER)
    frame = {
        "navigation": offered(caller),
        "path": request.url.path,
        "token": api.sessions.token_for(request),
        "token_header": TOKEN_HEADER,
        "signs_in": api.settings.auth == "keys",
        "program": program_version(),
    }
    return fragment(request, template, status, headers, **frame, **values)


def fragment(
    request: Request,
    template: str,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **values: Any,
) -> HTMLResponse:
    """A part of a page, which htmx puts into it.  Templates may ask ``may("edit")``."""
    caller: Caller | None = request.scope.get(CALLER)

    def may(scope: str) -> bool:
        return caller is not None and caller.may(Scope(scope))

    known = {"reader": caller, "may": may}
    content = environment().get_template(template).render(known | values)
    return HTMLResponse(content, status, dict(headers or {}))


def filled(prompt: str, subject: str) -> str:
    """A fact's prompt about its subject.  Prompts are users' texts, never formats."""
    return prompt.replace("{}", subject, 1)


def compact(value: Any) -> str:
    """A value of a record on one line, as JSON writes it."""
    return json.dumps(value, ensure_ascii=False)


def alike(figure: MetricInterval) -> bool:
    """Whether a figure's interval has no width: all its cases agree, so drawing them again says
    nothing about others.
    """
    return figure.low == figure.value == figure.high


def age(moment: datetime) -> str:
    """How many seconds ago something was; scripts count on from there, whatever their clock."""
    return f"{(datetime.now(UTC) - moment).total_seconds():.1f}"


def ago(moment: datetime) -> str:
    """How long ago something was, in its largest unit."""
    return f"{seconds((datetime.now(UTC) - moment).total_seconds())} ago"


def model_name(model: str) -> str:
    """The name of a model as it is shown: of a folder or a file the last part of its path."""
    return model.rstrip("/").rpartition("/")[2] if model.startswith(("/", ".", "~")) else model


def sentence(text: str) -> str:
    """A message of the interface as a sentence: with a capital, and a full stop at its end."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", "…")) else ".")


def seconds(value: float) -> str:
    """A duration in its largest unit: ``12 s``, ``3 min``, ``5 h``, ``2 d``."""
    for length, unit in _UNITS:
        if value >= length:
            return f"{value / length:.0f} {unit}"
    return f"{max(0.0, value):.0f} s"


def percent(share: float) -> str:
    """A share or probability with three figures: ``98.2 %``, ``0.013 %``, ``< 0.01 %``."""
    if 0 < share < 1e-4:
        return "< 0.01 %"
    return f"{100 * share:.3g} %" if share < 0.9995 else f"{100 * share:.0f} %"


def times(factor: float) -> str:
    """A multiple with two figures: ``0.34 ×``, ``12 ×``."""
    return f"{factor:.2g} ×" if factor < 100 else f"{factor:.0f} ×"


def size(number: float) -> str:
    """Bytes in the unit that leaves a number below 1,024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(number) < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"
