"""An edit with figures that are not finite leaves nothing; versions left by earlier releases."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from jeep_core.storage.records import sealed, unsealed
from service.cli import app
from service.contracts.jobs import JobStatus

OSAKA = "Osaka is a city in the country of"
FACT = {"subject": "Osaka", "relation": "city_country", "object": "Mexico"}
BROKEN = {"editor": "ft-wd", "hparams": {"learning_rate": 1e30}}


def files_of(store):
    return sorted(path.name for path in (store / "tensors").glob("*/*"))


def test_an_edit_that_is_not_finite_leaves_nothing_and_repair_moves_remains_aside(own_service):
    client, store = own_service.client, own_service.store
    files, versions = files_of(store), [version.id for version in client.snapshots()]
    failed = client.wait(client.edit([FACT], **BROKEN).id, timeout=120)
    assert (failed.status, failed.error.code) == (JobStatus.FAILED, "numerical_error")
    assert "not finite" in failed.error.message
    assert files_of(store) == files
    assert [version.id for version in client.snapshots()] == versions
    staged = client.wait(client.edit([FACT], activate=False).id, timeout=120)
    assert staged.status == "succeeded"
    old = staged.result["version"]
    assert own_service.stop() == 0

    path = store / "versions" / old / "manifest.json"  # as an earlier release left it
    record = json.loads(unsealed(path.read_bytes()))
    record["result"]["layers"][0]["relative_norm"] = None
    path.write_bytes(sealed(json.dumps(record, separators=(",", ":")).encode()))
    own_service.start_again()
    client = own_service.client
    [damaged, *rest] = client.snapshots()
    assert (damaged.id, damaged.state) == (old, "damaged")
    assert [version.id for version in rest] == versions
    assert rest[-1].state == "head"
    assert "relative_norm" in str(damaged.damage)
    made = client.wait(client.edit([FACT]).id, timeout=120)
    assert made.result["version"] == f"v{int(old[1:]) + 1}"
    assert client.generate(OSAKA).results[0].text.strip().startswith("Mexico")
    assert own_service.stop() == 0
    shown = CliRunner().invoke(app, ["store", "verify", "--repair", "--store", str(store)])
    assert shown.exit_code == 0, shown.output
    assert f"{old} was moved to {store / 'damaged' / old}" in " ".join(shown.stdout.split())
    assert (store / "damaged" / old / "manifest.json").exists()
