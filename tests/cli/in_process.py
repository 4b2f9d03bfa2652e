"""A command run in the process of its test: it starts no interpreter, and shows what it prints to people."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from projector.cli import main
from projector.config import Settings


def read(settings: Settings, capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    """What `projector WORDS` prints, on stderr when it fails; it has to end with `status`."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.environment().items():
            patch.setenv(name, value)
        patch.setattr("sys.argv", ["projector", *words])
        # It would bind this process's log to the stderr of this test, which ends with it. Unbound it goes to stdout.
        patch.setattr("projector.cli.configure_command", lambda: None)
        with capture_logs(), pytest.raises(SystemExit) as ended:
            main()
    shown = capsys.readouterr()
    assert ended.value.code == status, shown.err
    return shown.err if status else shown.out
