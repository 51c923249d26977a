"""HTTP to a target: one address that is allowed, no redirects, answers of bounded size.

Messages of errors end up in the store and in logs: they hold nothing of the request, and a key
that a server repeats is blanked.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx

from jeep_core.errors import Coded, reason_of
from service.contracts.schemas.targets import TargetRecord
from service.ops.addresses import AddressRefused, Allowed
from service.store.files import inside

MOST_BYTES = 4 << 20
"""Of an answer; lists of models and log-probabilities are far smaller."""
LONGEST = 400
"""Characters of a server's message that are shown."""
LOOK_S = 10.0
"""How long a server may take to say what it has."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


class TargetFailed(Coded, Exception):
    """A server could not be brought to a version; the message says what to do.

    ``lasting``: trying again helps only after somebody has done something.
    """

    def __init__(self, code: str, message: str, lasting: bool = False) -> None:
        super().__init__(message)
        self.code, self.lasting = code, lasting


class Connection:
    """Requests to the server of one target.

    Raises, in every call:
        TargetFailed: ``away``, ``slow``, ``address_refused``, ``no_secret``, ``bad_answer``,
            ``redirected``; what a server answers with a status of its own is in the `Answer`.
    """

    def __init__(
        self, record: TargetRecord, allowed: Allowed, secrets: Path | None, timeout_s: float
    ) -> None:
        self._record, self._allowed, self._secrets = record, allowed, secrets
        self._timeout_s = timeout_s

    def get(self, path: str) -> Answer:
        """GET a path."""
        return self._send("GET", path, None, LOOK_S)

    def post(self, path: str, body: Any) -> Answer:
        """POST JSON to a path."""
        return self._send("POST", path, body, self._timeout_s)

    def _send(self, method: str, path: str, body: Any, timeout_s: float) -> Answer:
        secret = self._secret()
        try:
            place = self._allowed.place(self._record.address)
        except AddressRefused as error:
            raise TargetFailed(error.code, str(error), lasting=True) from None
        headers = {"Host": place.host, "Accept": "application/json"}
        if secret:
            headers["Authorization"] = f"Bearer {secret}"
        timeout = httpx.Timeout(timeout_s, connect=min(5.0, timeout_s))
        try:
            with (
                httpx.Client(timeout=timeout, trust_env=False, follow_redirects=False) as client,
                client.stream(
                    method, place.url + path, headers=headers, json=body,
                    extensions={"sni_hostname": place.name},
                ) as response,
            ):  # fmt: skip
                data = _bounded(response)
        except httpx.TimeoutException:
            message = f"the server did not answer {method} {path} within {timeout_s:g} s"
            raise TargetFailed("slow", message) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            said = self._clean(reason_of(error), secret)
            raise TargetFailed("away", f"the server cannot be reached: {said}") from None
        if response.is_redirect:
            message = "the server sends elsewhere (a redirect), which is not followed: register "
            raise TargetFailed("redirected", message + "the address that answers", lasting=True)
        return Answer(f"{method} {path}", response.status_code, self._text(data, secret))

    def _text(self, data: bytes, secret: str | None) -> str:
        text = data.decode(errors="replace")
        return text.replace(secret, "…") if secret else text

    def _clean(self, text: str, secret: str | None) -> str:
        return shortened(text.replace(secret, "…") if secret else text)

    def _secret(self) -> str | None:
        name = self._record.secret
        if name is None:
            return None
        if self._secrets is None:
            message = f"the key {name!r} is looked for in JEEP_TARGETS_SECRETS, which is not set"
            raise TargetFailed("no_secret", message, lasting=True)
        try:
            found = inside(self._secrets, name).read_text("ascii").strip()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "is not one line of ASCII"
            message = f"the file {name!r} in JEEP_TARGETS_SECRETS: {reason}"
            raise TargetFailed("no_secret", message, lasting=True) from None
        if not found or not found.isprintable():
            message = f"the file {name!r} in JEEP_TARGETS_SECRETS holds no key"
            raise TargetFailed("no_secret", message, lasting=True)
        return found


class Answer:
    """The answer to one request."""

    def __init__(self, asked: str, status: int, text: str) -> None:
        self.asked, self.status, self.text = asked, status, text

    @property
    def good(self) -> bool:
        """Whether the server did what it was asked."""
        return 200 <= self.status < 300

    def json(self) -> Any:
        """The answer's JSON.

        Raises:
            TargetFailed: it is a refusal, or none.
        """
        if not self.good:
            raise self.refusal()
        try:
            return json.loads(self.text)
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
            found = json.loads(self.text)
        except ValueError:
            return shortened(self.text)
        for key in ("error", "message", "detail"):
            if isinstance(found, dict) and key in found:
                found = found[key]
        return shortened(found if isinstance(found, str) else json.dumps(found))


def shortened(text: str, longest: int = LONGEST) -> str:
    """A text of somebody else in one line of bounded length, without control characters."""
    line = " ".join(_CONTROL.sub(" ", text).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def _bounded(response: httpx.Response) -> bytes:
    data = bytearray()
    for chunk in response.iter_bytes():
        data += chunk
        if len(data) > MOST_BYTES:
            raise TargetFailed(
                "bad_answer", f"the server's answer is longer than {MOST_BYTES} bytes"
            )
    return bytes(data)
