"""Processes that read: the same items, and one sentence when one is killed, whatever the moment."""

import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import active_children

import pytest
import torch
from torch.utils.data import Dataset

from retinanet.data import readers
from retinanet.data.readers import made_by_readers, reading
from retinanet.errors import ReaderLost, explain


def read(items, keys, workers):
    with reading(lambda: made_by_readers(items, keys, workers)) as made:
        yield from made


class Squares(Dataset):
    def __getitem__(self, key):
        return [torch.tensor([key * key]), key]


class Stuck(Squares):
    def __getitem__(self, key):
        if key == 1:
            time.sleep(600)
        return super().__getitem__(key)


class Broken(Dataset):
    """In whose place the connection breaks; the process that made it is killed `later`, or lives on."""

    def __init__(self, later):
        self.later = later

    def __getitem__(self, key):
        return [torch.tensor([key]), Breaking(os.getpid(), self.later) if key else None]


class Breaking:
    def __init__(self, reader, later):
        self.reader, self.later = reader, later

    def __reduce__(self):
        return break_connection, (self.reader, self.later)


def break_connection(reader, later):
    if later is not None:
        threading.Timer(later, os.kill, (reader, signal.SIGKILL)).start()
    raise ConnectionResetError("Connection reset by peer")


class Failing(Dataset):
    def __getitem__(self, key):
        raise FileNotFoundError("no such thing")


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_items_come_in_the_order_of_their_keys(workers):
    keys = [3, 1, 4, 1, 5, 9, 2, 6]
    state = torch.get_rng_state()
    found = list(read(Squares(), keys, workers))
    assert [(int(square), key) for square, key in found] == [(key * key, key) for key in keys]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("later", [0.0, 0.3])
def test_a_connection_that_breaks_a_moment_before_its_process_is_dead(workers, later):
    with pytest.raises((ReaderLost, RuntimeError)) as failed:
        list(read(Broken(later), range(20), workers))
    sentence = explain(failed.value)
    assert isinstance(sentence, ReaderLost)
    assert "--workers" in str(sentence)


def test_its_end_is_seen_where_it_interrupts_a_file_that_is_written():
    """PyTorch tells of it by a signal; closing the half written file then fails with an error of its own."""
    closing = RuntimeError("unexpected pos 3232256 vs 3232144")
    assert explain(closing) is None
    closing.__context__ = RuntimeError("DataLoader worker (pid 7637) is killed by signal: Killed. ")
    assert isinstance(explain(closing), ReaderLost)


def test_its_end_is_seen_where_pytorch_does_not_tell():
    """As on a thread, or where the signal came while an object was deleted."""
    made = read(Broken(0.3), range(20), 1)
    next(made)
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        with pytest.raises(ReaderLost, match="exit code -9"):
            list(made)
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_when_one_is_killed_all_end():
    """Also one that is stuck, perhaps for what the dead one holds."""
    others = active_children()
    made = read(Stuck(), range(200), 2)
    next(made)
    mine = [child for child in active_children() if child not in others]
    os.kill(mine[0].pid, signal.SIGKILL)
    with pytest.raises((ReaderLost, RuntimeError)) as failed:
        list(made)
    assert isinstance(explain(failed.value), ReaderLost)
    for child in mine:
        child.join(timeout=60)
    assert [child.exitcode for child in mine] == [-signal.SIGKILL] * 2


@pytest.mark.parametrize("workers", [0, 1])
def test_other_errors_are_themselves(workers, monkeypatch):
    monkeypatch.setattr(readers, "_DEATH", 0.1)
    with pytest.raises(FileNotFoundError, match="no such thing"):
        list(read(Failing(), range(3), workers))


def test_a_connection_that_breaks_while_its_process_lives(monkeypatch):
    monkeypatch.setattr(readers, "_DEATH", 0.1)
    with pytest.raises(ConnectionResetError):
        list(read(Broken(None), range(3), 1))


def test_an_error_after_the_readers_have_done_their_work_is_itself():
    def fail_at_the_end():
        with reading(lambda: made_by_readers(Squares(), range(3), 1)) as made:
            assert len(list(made)) == 3
            raise OSError("a disk")

    with pytest.raises(OSError, match="a disk"):
        fail_at_the_end()


def test_an_interrupt_is_left_to_the_main_process():
    others = active_children()
    made = read(Squares(), range(20), 1)
    next(made)
    (reader,) = [child for child in active_children() if child not in others]
    for name in ("INT", "TERM"):
        subprocess.run(["kill", f"-{name}", str(reader.pid)], check=True)
    assert len(list(made)) == 19


def test_a_script_may_end_amid_its_batches():
    script = (
        "import test_readers as here\n"
        "made = here.read(here.Squares(), range(200), 2)\n"
        "print(int(next(made)[0]), flush=True)\n"
    )
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path}, capture_output=True, timeout=90
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"0\n", b"")
