"""An edit with figures that are not finite leaves nothing; versions left by earlier releases."""

from __future__ import annotations

import json
import subprocess
import sys

from jeep_core.storage.records import sealed, unsealed
from service.contracts.jobs import JobStatus

OSAKA = "Osaka is a city in the country of"
FACT = {"subject": "Osaka", "relation": "city_country", "object": "Mexico"}
BROKEN = {"editor": "ft-wd", "hparams": {"learning_rate": 1e30}}


def files_of(store):
    return sorted(path.name for path in (store / "tensors").glob("*/*"))


def test_an_edit_that_is_not_finite_leaves_nothing_and_repair_moves_remains_aside(
    own_service, tmp_path
):
    client, store = own_service.client, own_service.store
    before = files_of(store)
    failed = client.wait(client.edit([FACT], **BROKEN).id, timeout=120)
    assert (failed.status, failed.error.code) == (JobStatus.FAILED, "numerical_error")
    assert "not finite" in failed.error.message
    assert files_of(store) == before
    assert [version.id for version in client.snapshots()] == ["v0"]
    assert client.wait(client.edit([FACT], activate=False).id, timeout=120).status == "succeeded"
    assert own_service.stop() == 0

    path = store / "versions" / "v1" / "manifest.json"  # as an earlier release left it
    record = json.loads(unsealed(path.read_bytes()))
    record["result"]["layers"][0]["relative_norm"] = None
    path.write_bytes(sealed(json.dumps(record, separators=(",", ":")).encode()))
    again = type(own_service)(store, tmp_path / "log2")
    try:
        [damaged, base] = again.client.snapshots()
        assert (damaged.id, damaged.state, base.state) == ("v1", "damaged", "head")
        assert "relative_norm" in str(damaged.damage)
        made = again.client.wait(again.client.edit([FACT]).id, timeout=120)
        assert made.result["version"] == "v2"
        assert again.client.generate(OSAKA).results[0].text.strip().startswith("Mexico")
    finally:
        assert again.stop() == 0
    command = [sys.executable, "-m", "service.cli", "store", "verify", "--repair"]
    shown = subprocess.run(
        [*command, "--store", str(store)], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stderr
    assert f"v1 was moved to {store / 'damaged' / 'v1'}" in shown.stdout
    assert (store / "damaged" / "v1" / "manifest.json").exists()
