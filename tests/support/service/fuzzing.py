"""How much is generated: a little, the same every time, unless ``FUZZ_EXAMPLES`` asks for more."""

import os

from hypothesis import HealthCheck, settings

GIVEN = os.environ.get("FUZZ_EXAMPLES")


def examples(usual: int) -> int:
    return int(GIVEN) if GIVEN else usual


def bounded(usual: int) -> settings:
    return settings(
        max_examples=examples(usual),
        deadline=None,
        derandomize=GIVEN is None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
