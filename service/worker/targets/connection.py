"""HTTP to a target: one address that is allowed, no redirects, answers of bounded size and time.

Messages of errors end up in the store and in logs: they hold nothing of the request, and a key
that a server repeats is blanked, before and after its answer is decoded.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx

from jeep_core.errors import Coded, reason_of
from service.contracts.schemas.targets import TargetRecord
from service.ops.addresses import AddressRefused, Allowed
from service.store.files import inside
from service.worker.outgoing.exchange import TooLong, exchange, request_to
from service.worker.outgoing.foreign_text import Blank, decoded, readable, shortened

LOOK_S = 10.0
"""How long a server may take to say what it has."""


class TargetFailed(Coded, Exception):
    """A server could not be brought to a version; the message says what to do.

    ``lasting``: trying again helps only after somebody has done something.
    """

    def __init__(self, code: str, message: str, lasting: bool = False) -> None:
        super().__init__(message)
        self.code, self.lasting = code, lasting


class Connection:
    """Requests to the server of one target.

    ``patience_s``: how long it may take to load a version.

    Raises, in every call:
        TargetFailed: ``away``, ``slow``, ``address_refused``, ``no_secret``, ``bad_answer``,
            ``redirected``; what a server answers with a status of its own is in the `Answer`.
    """

    def __init__(
        self, record: TargetRecord, allowed: Allowed, secrets: Path | None, timeout_s: float
    ) -> None:
        self._record, self._allowed, self._secrets = record, allowed, secrets
        self.patience_s = timeout_s

    def get(self, path: str, timeout_s: float = LOOK_S) -> Answer:
        """GET a path."""
        return self._send("GET", path, None, timeout_s)

    def post(self, path: str, body: Any) -> Answer:
        """POST JSON to a path."""
        return self._send("POST", path, body, self.patience_s)

    def _send(self, method: str, path: str, body: Any, timeout_s: float) -> Answer:
        secret = self._secret()
        try:
            place = self._allowed.place(self._record.address)
        except AddressRefused as error:
            raise TargetFailed(error.code, str(error), lasting=True) from None
        request, blank = request_to(place, method, path, body, secret), Blank(secret)
        try:
            found = asyncio.run(exchange(request, timeout_s))
        except (httpx.TimeoutException, TimeoutError):
            message = f"the server did not answer {method} {path} within {timeout_s:g} s"
            raise TargetFailed("slow", message) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            said = shortened(blank(reason_of(error)))
            raise TargetFailed("away", f"the server cannot be reached: {said}") from None
        except TooLong as error:
            raise TargetFailed("bad_answer", str(error)) from None
        if found.is_redirect:
            message = "the server sends elsewhere (a redirect), which is not followed: register "
            raise TargetFailed("redirected", message + "the address that answers", lasting=True)
        text = found.content.decode(errors="replace")
        return Answer(f"{method} {path}", found.status_code, text, blank)

    def _secret(self) -> str | None:
        name = self._record.secret
        if name is None:
            return None
        if self._secrets is None:
            message = f"the key {name!r} is looked for in JEEP_TARGETS_SECRETS, which is not set"
            raise TargetFailed("no_secret", message, lasting=True)
        try:
            file = inside(self._secrets, name)
        except ValueError:
            message = (
                f"the file {name!r} in JEEP_TARGETS_SECRETS is a link out of that folder, which is "
                "not followed: put the file itself there"
            )
            raise TargetFailed("no_secret", message, lasting=True) from None
        try:
            found = file.read_text("ascii").strip()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "is not one line of ASCII"
            message = f"the file {name!r} in JEEP_TARGETS_SECRETS: {reason}"
            raise TargetFailed("no_secret", message, lasting=True) from None
        if not found or not found.isprintable():
            message = f"the file {name!r} in JEEP_TARGETS_SECRETS holds no key"
            raise TargetFailed("no_secret", message, lasting=True)
        return found


class Answer:
    """The answer to one request; whatever of it is shown went through ``blank``."""

    def __init__(self, asked: str, status: int, text: str, blank: Blank) -> None:
        self.asked, self.status, self.text = asked, status, blank(text)
        self._sent, self._blank = text, blank

    @property
    def good(self) -> bool:
        """Whether the server did what it was asked."""
        return 200 <= self.status < 300

    def json(self) -> Any:
        """The answer's JSON, in which every text can be written and holds no key.

        Raises:
            TargetFailed: it is a refusal, or none.
        """
        if not self.good:
            raise self.refusal()
        try:
            return decoded(self._sent, self._unbroken)
        except ValueError:
            raise self.strange() from None

    def strange(self) -> TargetFailed:
        """The error for an answer that this kind of server never gives."""
        message = f"{self.asked} was answered with something else than expected "
        shown = shortened(self.text, 80)
        return TargetFailed("bad_answer", f"{message}({shown!r}): is it a server of this kind?")

    def refusal(self) -> TargetFailed:
        """The error for a status that nothing more is known of."""
        if self.status in (401, 403):
            message = (
                f"the server refuses the key ({self.status}): name the file with its key as the "
                "target's secret"
            )
            return TargetFailed("key_refused", message, lasting=True)
        code = "busy" if self.status in (429, 503) else "refused"
        message = f"the server answers {self.asked} with {self.status}: {self.message}"
        return TargetFailed(code, message)

    @property
    def message(self) -> str:
        """The server's own words for what is wrong, wherever its kind puts them."""
        try:
            found = decoded(self._sent, self._blank)
        except ValueError:
            return shortened(self.text)
        for key in ("error", "message", "detail"):
            if isinstance(found, dict) and key in found:
                found = found[key]
        return shortened(found if isinstance(found, str) else json.dumps(found))

    def _unbroken(self, text: str) -> str:
        """A text without the key; ValueError for one that cannot be written as UTF-8."""
        if readable(text) != text:
            raise ValueError("a text has half of a surrogate pair")
        return self._blank(text)
