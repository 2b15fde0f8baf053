"""The fault that a test stands for, written down for ``benchmarks/faults.py``."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(autouse=True)
def record_fault(request: pytest.FixtureRequest, record_property: Any) -> None:
    """Put the nearest mark, ``@pytest.mark.fault("F1")``, into the report of the run."""
    mark = request.node.get_closest_marker("fault")
    if mark is None:
        pytest.fail('a test of faults says which by @pytest.mark.fault("F1"), a row of docs/reliability.md')
    record_property("fault", *mark.args)
