"""Order of tests, and their distribution over processes: hooks of pytest and pytest-xdist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

# Long tests start first, so that no process works alone at the end. The figures are rough, for folders, files or tests.
# If several prefixes match, the largest figure counts. Tests without a match take only seconds.
_SECONDS: Final[Mapping[str, int]] = {
    "tests/scenarios/": 150,
    "tests/integration/test_kill.py": 140,
    "tests/integration/test_clickhouse.py": 110,
    "tests/integration/test_cli.py": 100,
    "tests/integration/test_kafka_broker.py": 70,
    "tests/property/test_rules.py::test_large_fleets_fire_as_the_model_does": 65,
    "tests/faults/": 60,
    "tests/integration/test_worker_web.py": 55,
    "tests/integration/test_standby.py": 50,
    "tests/integration/test_guarded.py": 50,
    "tests/integration/test_kafka_client.py": 45,
    "tests/integration/test_outbox.py": 40,
    "tests/integration/test_hostile_files.py": 40,
    "tests/integration/": 30,
    "tests/property/test_bases.py::test_a_restored_fold_goes_on_as_if_nothing_had_been": 29,
    "tests/property/test_rules.py": 26,
    "tests/property/test_mediation_retries.py": 25,
    "tests/property/test_route.py": 22,
    "tests/property/test_fold.py": 12,
    "tests/property/": 5,
}
# Tests here share no expensive setup, so each of them may run in any process.
_APART: Final[tuple[str, ...]] = ("tests/property/", "tests/faults/", "tests/integration/test_hostile_files.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long tests first. Tests of a file that share a process stay together and in order."""
    seconds: dict[str, int] = {}
    for item in items:
        unit = _unit(item.nodeid)
        seconds[unit] = max(seconds.get(unit, 0), _seconds(item.nodeid))
    items.sort(key=lambda item: -seconds[_unit(item.nodeid)])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    """With --dist loadfile, run the tests of a file in one process, so that they share the file's setup."""
    if config.getvalue("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False
    return _Units(config, log)


class _Units(LoadScopeScheduling):
    """A scheduler that assigns units (files, or single tests of _APART) to processes in the order of collection."""

    def _split_scope(self, nodeid: str) -> str:
        return _unit(nodeid)

    def remove_node(self, node: WorkerController) -> str | None:
        """Assign the remaining tests of a crashed process to other processes, and return the test that crashed it.

        That test is not assigned again, because it would crash the next process, too.
        """
        units = self.assigned_work.pop(node)
        left = [(unit, test) for unit, tests in units.items() for test, completed in tests.items() if not completed]
        if not left:
            return None
        unit, died_of = left[0]
        units[unit][died_of] = True
        self.workqueue.update({name: tests for name, tests in units.items() if not all(tests.values())})
        for other in self.assigned_work:
            self._reschedule(other)
        return died_of


def _unit(nodeid: str) -> str:
    return nodeid if nodeid.startswith(_APART) else nodeid.partition("::")[0]


def _seconds(nodeid: str) -> int:
    return max((seconds for prefix, seconds in _SECONDS.items() if nodeid.startswith(prefix)), default=0)
