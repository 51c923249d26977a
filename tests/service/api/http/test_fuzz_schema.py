"""Generated requests for every operation of the description: nothing breaks, every answer is one
that the description knows.  ``make fuzz`` generates more of them.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
from support.service.finished_jobs import finished_evaluation, finished_export, finished_probe
from support.service.fuzzing import GIVEN, examples
from support.service.played_worker.worker import PlayedWorker
from support.service.serving import running
from support.service.trees import add_check

from service.client import Client
from service.contracts.schemas.access import Scope
from service.settings import Settings

FACT = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "ignored_auth",
)

PHASES = "examples,coverage,fuzzing" if GIVEN else "examples,fuzzing"
"""Every boundary of every field takes minutes: with ``make fuzz`` only."""

CONFIG = """\
[dictionaries.known]
values = {names}

[parameters]
"path.id" = {{ dictionary = "known", probability = 0.7 }}
"path.a" = {{ dictionary = "known", probability = 0.7 }}
"path.b" = {{ dictionary = "known", probability = 0.7 }}
"path.path" = {{ dictionary = "known", probability = 0.7 }}
"path.name" = {{ dictionary = "known", probability = 0.7 }}
"query.a" = {{ dictionary = "known", probability = 0.7 }}
"query.b" = {{ dictionary = "known", probability = 0.7 }}
"query.version" = {{ dictionary = "known", probability = 0.7 }}
"path.sha256" = {{ dictionary = "known", probability = 0.7 }}
"path.model" = {{ dictionary = "known", probability = 0.7 }}
"""


def test_every_answer_is_one_that_the_description_knows(
    settings: Settings, worker: PlayedWorker, tmp_path: Path
) -> None:
    _, token = worker.store.keys.create("fuzz", [Scope.ADMIN])
    changes = {"auth": "keys", "rate_per_minute": 0, "generate_timeout_s": 60}
    given = settings.model_copy(update=changes)
    headers = {"Authorization": f"Bearer {token}"}
    with running(given) as url, Client(url, api_key=token) as client:
        job = client.wait(client.edit([FACT], snapshot_name="named").id)
        staged = client.wait(client.edit([FACT], activate=False).id)
        with httpx.Client(base_url=url, headers=headers, timeout=60) as http:
            evaluation, _ = finished_evaluation(http, worker.store)
            probe, _ = finished_probe(http, worker.store)
            export, _ = finished_export(http, worker.store)
        check = add_check(worker.store, "v1", {}, {"v1": [0]}).payload["check_id"]
        worker.refuse_reads()  # what is submitted from here on ends, so that its stream does
        names = ["head", "v0", "v1", "v2", "named", job.id, job.edit_id, staged.id, staged.edit_id]
        names += [ref.sha256 for ref in worker.store.versions.read("v1").tensors]
        names += [
            evaluation,
            probe,
            export,
            check,
            "export.json",
            "weights.bin",
            "base",
            "atlas-zsre",
            "probe.json",
            "answers.png",
        ]
        description = httpx.get(f"{url}/openapi.json", headers=headers, timeout=60)
        (tmp_path / "openapi.json").write_text(description.text)
        (tmp_path / "schemathesis.toml").write_text(CONFIG.format(names=json.dumps(names)))
        shown = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", "openapi.json"),
                *("--url", url),
                *("--header", f"Authorization: Bearer {token}"),
                *("--checks", ",".join(CHECKS), "--phases", PHASES),
                *("--max-examples", str(examples(4))),
                *(() if GIVEN else ("--generation-deterministic",)),
                *("--no-color", "--continue-on-failure", "--request-timeout", "120"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    print(shown.stdout[-3000:])
    assert shown.returncode == 0, shown.stdout + shown.stderr
    [count] = re.findall(r"(\d+) generated", shown.stdout)
    assert int(count) >= 150
