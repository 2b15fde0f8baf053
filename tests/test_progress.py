"""How far a run has come: a bar on a terminal, few lines in a log."""

from __future__ import annotations

import sys

import pytest

from monai_dnaprior.progress import Progress, follow


@pytest.mark.parametrize(("total", "lines"), [(1000, 11), (24, 11), (3, 4), (1, 2), (0, 1)])
def test_a_log_gets_a_line_for_every_tenth(total: int, lines: int, capsys: pytest.CaptureFixture) -> None:
    with Progress(total, unit="slice", name="scan.nii on cpu") as progress:
        for _ in range(total):
            progress.advance()
    written = capsys.readouterr().err
    assert "\r" not in written
    assert written.splitlines()[0] == f"scan.nii on cpu: 0 of {total} slices"
    assert written.splitlines()[-1] == f"scan.nii on cpu: {total} of {total} slices"
    assert len(written.splitlines()) == lines


def test_a_terminal_gets_a_bar(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(follow([3, 4], unit="slice", name="scan.nii")) == [3, 4]
    written = capsys.readouterr().err
    assert "\r" in written
    assert "2/2" in written


def test_nothing_is_said_where_nothing_is_to_be_shown(capsys: pytest.CaptureFixture) -> None:
    assert list(follow([3, 4], unit="slice", name="scan.nii", shown=False)) == [3, 4]
    assert capsys.readouterr().err == ""
