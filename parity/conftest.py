"""The differences that the tests measure, printed at the end."""
from __future__ import annotations

import pytest
from cases import relative_difference

LIMIT = 1e-5
_SEEN: list[tuple[str, float]] = []


@pytest.fixture
def assert_close(request):
    """Function that compares arrays, notes the largest relative difference under a label, and asserts the limit."""

    def compare(values, expected, label: str) -> None:
        difference = relative_difference(values, expected)
        _SEEN.append((f'{request.node.name} {label}', difference))
        assert difference <= LIMIT, label

    return compare


def pytest_terminal_summary(terminalreporter):
    if _SEEN:
        terminalreporter.section('largest relative differences')
    for label, difference in _SEEN:
        terminalreporter.write_line(f'{difference:.1e}  {label}')
