"""Children end with their parent, whatever happens to it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from projector.embedded import process
from projector.embedded.guard import children_of
from projector.errors import EmbeddedError
from tests.embedded.conftest import alive, descendants, eventually

# Starts a child in a thread that ends at once, says who it is, and waits to be killed.
PARENT = """
import sys, threading, time
from pathlib import Path
from projector.embedded import process
child = []
def begin():
    child.append(process.start("child", sys.argv[2:], log_file=Path(sys.argv[1]), grace_s=0.3))
thread = threading.Thread(target=begin)
thread.start()
thread.join()
print(child[0].pid, flush=True)
time.sleep(60)
"""

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"

# Its own child leaves the process group and the session.
FUGITIVE = """
import os, time
if os.fork() == 0:
    os.setsid()
    print(os.getpid(), flush=True)
time.sleep(60)
"""


def start(tmp_path: Path, script: str, **options) -> process.Process:
    return process.start("child", [sys.executable, "-c", script], log_file=tmp_path / "child.log", **options)


def test_a_child_reports_its_exit_code_and_its_last_lines(tmp_path):
    (tmp_path / "child.log").write_text("of an earlier start\n")
    child = start(tmp_path, "import sys; [print(n) for n in range(50)]; sys.exit(7)")
    assert child.wait(10) == 7
    assert child.poll() == 7
    assert child.tail(2) == ["48", "49"]
    assert "of an earlier start" not in child.tail(1000)
    error = child.failure("did not start", lines=1)
    assert str(tmp_path / "child.log") in str(error)
    assert "| 49" in str(error)


def test_stop_asks_and_kill_does_not(tmp_path):
    child = start(tmp_path, "import time; time.sleep(60)")
    assert child.wait(0.05) is None
    assert child.stop() == -signal.SIGTERM
    child = start(tmp_path, "import time; time.sleep(60)")
    assert child.kill() == -signal.SIGKILL
    assert not alive(child.pid)


def test_a_child_that_does_not_listen_is_killed_after_the_timeout(tmp_path):
    child = start(tmp_path, DEAF)
    assert eventually(lambda: child.tail() == ["deaf"])
    assert child.stop(timeout=0.2) == -signal.SIGKILL


def test_the_pid_is_that_of_the_command_itself(tmp_path):
    child = start(tmp_path, "import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    assert eventually(lambda: child.tail() == [str(child.pid)])
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait(10) == -signal.SIGKILL


def test_a_command_that_cannot_be_executed_is_named(tmp_path):
    with pytest.raises(EmbeddedError, match=r"child cannot be started: No such file or directory: /nowhere/it"):
        process.start("child", ["/nowhere/it"], log_file=tmp_path / "log")


def test_a_command_that_ends_at_once_is_noticed(tmp_path):
    assert [start(tmp_path, "").wait(10) for _ in range(5)] == [0] * 5
    quick = [process.start("quick", ["true"], log_file=tmp_path / "log") for _ in range(20)]
    assert [child.wait(10) for child in quick] == [0] * 20


def test_what_a_child_leaves_behind_is_killed_even_when_it_left_the_group(tmp_path):
    child = start(tmp_path, FUGITIVE)
    assert eventually(lambda: len(child.tail()) == 1)
    fugitive = int(child.tail()[0])
    assert alive(fugitive)
    child.kill()
    assert not alive(fugitive)


@pytest.mark.parametrize("script", ["import time; time.sleep(60)", DEAF, FUGITIVE])
def test_sigkill_of_the_parent_ends_the_child_and_all_below_it(tmp_path, run_python, script):
    log = tmp_path / "child.log"
    parent, pid = run_python(PARENT, log, sys.executable, "-c", script)
    assert alive(int(pid))  # although the thread that started it has ended
    if script != "import time; time.sleep(60)":
        assert eventually(lambda: log.read_text() != "")
    below = descendants(parent.pid)
    assert int(pid) in below
    parent.kill()
    assert eventually(lambda: not any(map(alive, below)))


def test_sigkill_of_the_guard_ends_the_child(tmp_path):
    child = start(tmp_path, "import time; time.sleep(60)")
    (guard,) = (pid for pid in children_of(os.getpid()) if child.pid in children_of(pid))
    os.kill(guard, signal.SIGKILL)
    assert child.wait(10) == -signal.SIGKILL
    assert eventually(lambda: not alive(child.pid))


def test_a_fork_that_keeps_the_pipe_open_does_not_keep_the_child_alive(tmp_path, run_python):
    forked = PARENT.replace("print(child", "import os\nif os.fork() == 0: time.sleep(8); os._exit(0)\nprint(child")
    parent, pid = run_python(forked, tmp_path / "log", sys.executable, "-c", "import time; time.sleep(60)")
    parent.kill()
    assert eventually(lambda: not alive(int(pid)), timeout=5)


def test_many_children_started_at_once_end_one_by_one(tmp_path):
    children: list[process.Process] = []
    threads = [
        threading.Thread(target=lambda: children.append(start(tmp_path, "import time; time.sleep(60)")))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, child in enumerate(children):
        child.stop()
        assert [alive(other.pid) for other in children] == [place > number for place in range(6)]


def test_an_old_log_is_put_aside_when_it_has_grown(tmp_path):
    log = tmp_path / "child.log"
    log.write_bytes(b"x" * (process.ROTATE_LOG_BYTES + 1))
    assert start(tmp_path, "print('new')").wait(10) == 0
    assert log.read_text() == "new\n"
    assert (tmp_path / "child.log.1").stat().st_size == process.ROTATE_LOG_BYTES + 1
