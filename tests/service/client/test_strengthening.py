"""Facts that an exported file has lost are edited again with a margin."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar

import httpx
import pytest

from service.client import Client
from service.contracts.jobs import now


class TestStrengthening:
    """Facts that a file has lost are edited again, with the settings of the version's own edit."""

    LINES: ClassVar = [
        {"prompt": "Lyon is in", "target_new": "Japan", "holds_in_version": True, "holds": False},
        {"prompt": "Nice is in", "target_new": "Peru", "holds_in_version": True, "holds": True},
        {"prompt": "Metz is in", "target_new": "Chad", "holds_in_version": False, "holds": False},
    ]

    @pytest.fixture
    def sent(self) -> list[dict[str, Any]]:
        return []

    @pytest.fixture
    def lines(self) -> list[dict[str, Any]]:
        rest = {"version": "v3", "index": 0, "in_version": "", "in_written": ""}
        return [{**rest, **line} for line in self.LINES]

    @pytest.fixture
    def client(self, sent: list[dict[str, Any]], lines: list[dict[str, Any]]) -> Iterator[Client]:
        """A client of a service with an export of v3 that has lost one fact."""
        facts = [
            {"subject": s, "prompt": "{} is in", "target_new": t, "version": "v3"}
            for s, t in (("Lyon", "Japan"), ("Nice", "Peru"), ("Metz", "Chad"))
        ]
        edit = {"editor": "jeep", "hparams": {"n_steps": 30, "kl_weight": 0.1}}
        export = {
            "id": "export_1", "job_id": "job_1", "status": "succeeded", "version": "v3",
            "format": "gguf", "options": {}, "available": True, "created_at": str(now()),
            "progress": {},
        }  # fmt: skip
        answers = {
            "/exports/export_1/proof": {"facts": 3, "ok": False, "asked": lines},
            "/exports/export_1": export,
            "/facts": {"data": facts, "has_more": False},
            "/snapshots/v3": {"edit_id": "edit_1"},
            "/edits/edit_1": edit,
        }

        def handle(request: httpx.Request) -> httpx.Response:
            if request.method == "GET":
                return httpx.Response(200, json=answers[request.url.path])
            sent.append(json.loads(request.content))
            job = {
                "id": "job_2", "kind": "edit", "status": "queued", "created_at": str(now()),
                "progress": {}, "resource_id": "edit_2", "attempt": 0,
            }  # fmt: skip
            return httpx.Response(202, json=job)

        with Client("http://service") as client:
            client._http = httpx.Client(
                base_url="http://service", transport=httpx.MockTransport(handle)
            )
            yield client
            client._http.close()

    def test_edits_the_lost_facts_alone(self, client: Client, sent: list[dict[str, Any]]) -> None:
        assert client.strengthen_export("export_1", margin=4.0).id == "job_2"
        [body] = sent
        assert body["facts"] == [{"subject": "Lyon", "prompt": "{} is in", "target_new": "Japan"}]
        assert body["hparams"] == {"n_steps": 60, "kl_weight": 0.1, "margin": 4.0}
        assert (body["editor"], body["parent"]) == ("jeep", "v3")

    def test_has_nothing_to_do_where_all_hold(
        self, client: Client, lines: list[dict[str, Any]], sent: list[dict[str, Any]]
    ) -> None:
        lines[0]["holds"] = True
        with pytest.raises(ValueError, match="has lost no fact"):
            client.strengthen_export("export_1")
        assert sent == []
