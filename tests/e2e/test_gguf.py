"""``jeep serve --model x.gguf``: the file is converted once, its model edited and rolled back."""

from __future__ import annotations

from support.library import gguf_files

FACT = {"subject": "Lyon", "prompt": "{} lies in", "target_new": "Japan"}


def test_a_gguf_file_is_served_edited_and_rolled_back(start, tmp_path):
    models, store, log = tmp_path / "models", tmp_path / "store", tmp_path / "log"
    model = gguf_files.random_model("llama")
    gguf_files.write(tmp_path / "x.gguf", "llama", model, gguf_files.Kind.Q8_0)
    directory = ("--models-dir", str(models))
    serving = start(store, log, "--model", str(tmp_path / "x.gguf"), *directory)
    try:
        client = serving.client
        base = client.snapshot("base").weights_sha256
        edit = client.edit([FACT], editor="ft-wd", hparams={"layer": 1})
        job = client.wait(edit.id, timeout=120)
        assert job.status == "succeeded", job.error
        assert client.snapshot("head").weights_sha256 != base
        assert client.rollback("base").weights_sha256 == base
    finally:
        assert serving.stop() == 0
    assert "x.gguf: converting" in log.read_text()
    [folder] = [path for path in models.iterdir() if path.is_dir()]
    assert folder.name.startswith("x-")
    stamp = (folder / "model.safetensors").stat().st_mtime_ns

    again = start(
        store, tmp_path / "log of it again", "--model", folder.name, *directory
    )  # the name that it has got
    try:
        assert again.client.snapshot("base").weights_sha256 == base
    finally:
        assert again.stop() == 0
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
