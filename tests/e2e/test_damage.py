"""A damaged store: undamaged parts stay usable, and a start that must fail gives the reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.forks.command import jeep

from jeep_core import atlas
from service.client import ApiError
from service.contracts.jobs import JobStatus
from service.settings import EXIT_CONFIG
from service.store import Store
from service.store.maintenance.backup import back_up, restore

MUNICH = "Munich is a city in the country of"
FACT = {"subject": "Munich", "relation": "city_country", "object": "Kenya"}


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_damaged_head_can_be_rolled_back_and_edited_again(own_service):
    done = own_service.client.wait(own_service.client.edit([FACT]).id, timeout=120)
    version = done.result["version"]
    [first, *_] = own_service.client.snapshot(version).tensors
    assert own_service.stop() == 0
    tensors = own_service.store / "tensors" / first.sha256[:2]
    damage(tensors / f"{first.sha256}.safetensors")

    own_service.start_again()
    client = own_service.client
    unready = own_service.http.get("/readyz")
    assert (unready.status_code, unready.json()["code"]) == (503, "corrupt_version")
    assert f"{version} is damaged" in unready.json()["detail"]
    with pytest.raises(ApiError, match="corrupt_version"):
        client.generate(MUNICH)
    failed = client.wait(client.edit([FACT]).id, timeout=120)
    assert failed.status is JobStatus.FAILED
    assert failed.error is not None
    assert failed.error.code == "corrupt_version"
    assert client.generate(MUNICH, "base").results[0].version == "v0"
    assert client.rollback("base").previous == version
    assert own_service.http.get("/readyz").status_code == 200
    # the same edit gives the same bytes: the damaged file is written again
    assert client.wait(client.edit([FACT]).id, timeout=120).status is JobStatus.SUCCEEDED
    assert client.generate(MUNICH, version).results[0].text.strip().startswith("Kenya")


def test_a_store_whose_head_cannot_be_read_is_refused_with_its_file(service, tmp_path):
    store = tmp_path / "store"  # a copy of one that is in use
    back_up(Store.open(service.store), tmp_path / "backup")
    restore(tmp_path / "backup", store)
    (store / "head.json").write_text("{")
    (store / "reflog.jsonl").write_text("{}\n")  # otherwise head is known from there
    shown = jeep("serve", "--port", "0", "--auth", "off", "--store", str(store))
    assert shown.returncode == EXIT_CONFIG
    assert "head.json is damaged" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_a_model_folder_that_is_not_whole_stops_the_service_at_once(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(atlas.MODELS["atlas-gptj"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_layer": 10}))
    for model, sentence, started in (
        (folder, "says n_layer = 10", 1),
        (tmp_path / "no", "is not there", 0),
    ):
        given = ("--store", str(tmp_path / "store"), "--model", str(model))
        shown = jeep("serve", "--port", "0", "--auth", "off", *given)
        assert shown.returncode == EXIT_CONFIG
        assert sentence in shown.stderr
        assert "Traceback" not in shown.stderr
        assert shown.stdout.count("worker started") == started
