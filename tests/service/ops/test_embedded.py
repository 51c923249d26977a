"""The embedded server: one per directory, keeps its data, ends when its owner ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.ops.embedded_server import EmbeddedBusyError, EmbeddedError, EmbeddedValkey, KeptValkey
from service.queue import connect


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")  # an orphan may wait for init as a zombie
    return not (status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def wait_until_dead(pid: int) -> bool:
    give_up = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < give_up:
        time.sleep(0.02)
    return not is_alive(pid)


def test_a_started_server_answers(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as server, connect(server.url) as client:
        assert client.ping()
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as server, connect(server.url) as client:
        client.set("city", "Zürich")
    with EmbeddedValkey(tmp_path) as server, connect(server.url) as client:
        assert client.get("city") == "Zürich"


def test_a_second_server_on_one_directory_is_refused(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as first:
        with pytest.raises(EmbeddedBusyError, match=str(tmp_path)):
            EmbeddedValkey(tmp_path).start()
        with connect(first.url) as client:
            assert client.ping()


def test_a_stopped_server_leaves_no_process_and_no_socket(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path)
    server.start()
    pid = server.pid
    assert pid is not None
    server.stop()
    server.stop()
    assert not is_alive(pid)
    assert not (tmp_path / "valkey.sock").exists()
    with pytest.raises(EmbeddedError):
        _ = server.url


def test_a_folder_with_spaces_and_accents_is_fine(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path / "à côté #1") as server, connect(server.url) as client:
        assert client.ping()
    assert (tmp_path / "à côté #1" / "appendonlydir").is_dir()


def test_a_path_too_long_for_a_socket_gets_a_short_one(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 20) / ("longer" * 10)
    with EmbeddedValkey(folder) as server, connect(server.url) as client:
        short = Path(server.url.removeprefix("unix://")).parent
        assert client.ping()
    assert not short.exists()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").write_text("a file where a folder should be")
    with pytest.raises(EmbeddedError, match="appendonlydir"):
        EmbeddedValkey(tmp_path).start()


def test_a_server_whose_file_is_damaged_begins_empty_beside_it(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as server, connect(server.url) as client:
        client.set("city", "Zürich")
    [file] = (tmp_path / "appendonlydir").glob("*.incr.aof")
    file.write_bytes(file.read_bytes().replace(b"*3", b"*\xff", 1))
    with EmbeddedValkey(tmp_path) as server, connect(server.url) as client:
        assert client.get("city") is None
        client.set("city", "Bern")
    [aside] = tmp_path.glob("damaged-*")
    assert "Zürich".encode() in (aside / file.name).read_bytes()
    with EmbeddedValkey(tmp_path) as server, connect(server.url) as client:
        assert client.get("city") == "Bern"


@pytest.mark.parametrize("folder", ["valkey", "long" * 20 + "/" + "longer" * 10])
def test_a_kept_server_is_started_again_where_it_was(tmp_path: Path, folder: str) -> None:
    said: list[str] = []
    server = KeptValkey(tmp_path / folder, said.append)
    server.start()
    url, first = server.url, server.pid
    assert first is not None
    with connect(url) as client:
        client.set("city", "Bern")
        os.kill(first, signal.SIGKILL)
        assert client.get("city") == "Bern"  # the client waits for it
        assert server.url == url
        second = server.pid
        assert second not in (None, first)
    server.stop()
    server.stop()
    assert second is not None
    assert not is_alive(second)
    assert len(said) == 1
    with EmbeddedValkey(tmp_path / folder) as again:  # the directory is free
        assert again.pid


def test_a_kept_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").write_text("a file where a folder should be")
    server = KeptValkey(tmp_path, print)
    with pytest.raises(EmbeddedError, match="appendonlydir"):
        server.start()
    server.stop()


_OWNER = """
import sys, time
from pathlib import Path
from service.ops.embedded_server import EmbeddedValkey
from service.queue import connect
server = EmbeddedValkey(Path(sys.argv[1]))
server.start()
connect(server.url).set("city", "Oslo")
print(server.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl; elsewhere see the next test")
def test_a_server_ends_with_its_killed_owner(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _OWNER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        server = int(owner.stdout.readline())
        owner.kill()
    assert wait_until_dead(server)


def test_a_new_owner_takes_over_from_a_killed_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _OWNER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        orphan = int(owner.stdout.readline())
        owner.kill()
    with EmbeddedValkey(tmp_path) as server, connect(server.url) as client:
        assert not is_alive(orphan)
        assert client.get("city") == "Oslo"


def test_an_orphan_that_outlived_its_owner_is_stopped_first(tmp_path: Path) -> None:
    """As on systems whose servers do not end with their owner."""
    elsewhere = "import service.ops.embedded_server\nservice.ops.embedded_server._die_with = lambda parent: None\n"  # noqa: E501
    command = [sys.executable, "-c", elsewhere + _OWNER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        orphan = int(owner.stdout.readline())
        owner.kill()
    assert is_alive(orphan)
    with EmbeddedValkey(tmp_path) as server, connect(server.url) as client:
        assert not is_alive(orphan)
        assert client.get("city") == "Oslo"


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _OWNER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as owner:
        assert owner.stdout is not None
        server = int(owner.stdout.readline())
        assert os.getpgid(server) != os.getpgid(owner.pid)
        os.kill(owner.pid, signal.SIGKILL)
    assert wait_until_dead(server)
