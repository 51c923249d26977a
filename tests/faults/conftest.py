"""``FAULTS=all`` runs every case; without it, the few that ``make test`` has time for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support.faults.checks import assert_whole
from support.faults.harness import EVERYTHING, Service

from service.contracts.schemas.access import Scope


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [] if EVERYTHING else [i for i in items if i.get_closest_marker("thorough")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="module")
def shared() -> Iterator[Service]:
    """A service that the cases of a file break one after the other."""
    with TemporaryDirectory(prefix="faults-") as folder, Service(Path(folder)) as service:
        service.edited()
        yield service


@pytest.fixture
def service(shared: Service) -> Iterator[Service]:
    """The shared service, ready; the case ends with the checks."""
    shared.wait_ready()
    yield shared
    assert_whole(shared)


@pytest.fixture
def own() -> Iterator[Callable[..., Service]]:
    """Makes separate services for a case, with settings; the case calls the checks itself."""
    with ExitStack() as stack:

        def start(**settings: object) -> Service:
            folder = stack.enter_context(TemporaryDirectory(prefix="faults-"))
            return stack.enter_context(Service(Path(folder), **settings))

        yield start


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a file of every kind."""
    with Service(tmp_path_factory.mktemp("bits", numbered=True)) as service:
        made = service.edited()
        service.client.name_snapshot("mine", made.result["version"])
        service.edited()
        service.store.keys.create("me", [Scope.READ])
        service.add_cases()
        yield service
