"""The journal: what has been noted survives a process that is ended by force at any moment, and nothing else counts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from retinanet.errors import UsageError
from retinanet.predict.journal import Finished, Journal, PartReader, PartWriter
from retinanet.predict.results import Results

RUN = {"model": "abc", "images": "def", "--threshold": 0.05, "--canvas": (64, 96)}


def finished(*image_ids: int, rows: int = 2) -> Finished:
    """`rows` detections of each image but the first, which has none."""
    ids = np.repeat(image_ids[1:], rows).astype(np.int64)
    numbers = np.arange(len(ids), dtype=np.float64)
    xywh = numbers[:, None] + np.array([0.125, 1, 2, 3])
    return Finished(np.array(image_ids), Results(ids, ids % 3, xywh, numbers / 7))


def assert_same(found: list[Finished], expected: list[Finished]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.image_ids, other.image_ids)
        for column, wanted in zip(vars(one.results).values(), vars(other.results).values(), strict=True):
            np.testing.assert_array_equal(column, wanted)


def test_a_reader_follows_a_part_as_it_grows(tmp_path: Path) -> None:
    reader = PartReader(tmp_path, 3)
    assert list(reader.read_new()) == []
    writer = PartWriter(tmp_path, 3)
    batches = [finished(1 << 40, 7), finished(5, 6, 9, rows=3), finished(8)]
    writer.append(batches[0])
    writer.append(batches[1])
    assert_same(list(reader.read_new()), batches[:2])
    assert list(reader.read_new()) == []
    writer.append(batches[2])
    writer.close({"a.jpg": "truncated"})
    assert_same(list(reader.read_new()), batches[2:])
    assert reader.broken == {"a.jpg": "truncated"}
    assert_same(list(PartReader(tmp_path, 3).read_new()), batches)


def test_wherever_a_part_is_cut_off_whole_batches_remain(tmp_path: Path) -> None:
    writer = PartWriter(tmp_path, 0)
    batches = [finished(1, 2), finished(3, 4, rows=5)]
    for batch in batches:
        writer.append(batch)
    lines = (tmp_path / "0.done").read_bytes()
    first = lines.index(b"\n") + 1
    for length in range(len(lines) + 1):
        (tmp_path / "0.done").write_bytes(lines[:length])
        whole = int(length >= first) + int(length == len(lines))
        assert_same(list(PartReader(tmp_path, 0).read_new()), batches[:whole])


def test_rows_that_never_reached_the_disk_are_not_done(tmp_path: Path) -> None:
    """As after a power cut, which keeps no order of files."""
    writer = PartWriter(tmp_path, 0)
    for batch in (finished(1, 2), finished(3), finished(4, 5)):
        writer.append(batch)
    rows = (tmp_path / "0.rows").read_bytes()
    (tmp_path / "0.rows").write_bytes(rows[:-1])
    assert_same(list(PartReader(tmp_path, 0).read_new()), [finished(1, 2), finished(3)])


def test_rows_that_were_half_written_are_skipped(tmp_path: Path) -> None:
    """As when the disk was full for a moment."""
    writer = PartWriter(tmp_path, 0)
    writer.append(finished(1, 2))
    writer._rows.write(b"half a row")
    writer.append(finished(3, 4))
    assert_same(list(PartReader(tmp_path, 0).read_new()), [finished(1, 2), finished(3, 4)])


def test_a_process_ended_by_force_loses_nothing_that_was_noted(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "from test_journal import PartWriter, finished\n"
        f"writer = PartWriter(Path({str(tmp_path)!r}), 0)\n"
        "for index in range(50):\n"
        "    writer.append(finished(2 * index, 2 * index + 1))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert_same(list(PartReader(tmp_path, 0).read_new()), [finished(2 * index, 2 * index + 1) for index in range(50)])


def fill(folder: Path) -> Journal:
    journal = Journal(folder, RUN, resume=False)
    for ids in ((1, 2), (3, 4)):
        writer = PartWriter(folder, journal.new_part())
        writer.append(finished(*ids))
    return journal


def test_resuming_finds_all_parts_and_adds_others(tmp_path: Path) -> None:
    folder = tmp_path / "results.json.partial"
    assert fill(folder).parts == [0, 1]
    (folder / ".results-12ab.json").write_text("what a killed process leaves")
    journal = Journal(folder, RUN, resume=True)
    assert_same(list(journal.finished()), [finished(1, 2), finished(3, 4)])
    assert journal.new_part() == 2
    assert not list(folder.glob(".*"))
    journal.remove()
    assert not folder.exists()


def test_without_resuming_it_begins_anew(tmp_path: Path) -> None:
    folder = tmp_path / "results.json.partial"
    fill(folder)
    assert list(Journal(folder, {**RUN, "model": "other"}, resume=False).finished()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--threshold": 0.3}, "--threshold was 0.05"),
        ({"--canvas": None, "--threshold": 0.3}, r"--threshold was 0.05, --canvas was \[64, 96\]"),
        ({"model": "other"}, "the model changed"),
        ({"model": "other", "images": "other"}, "the model and the images changed"),
    ],
)
def test_another_run_is_not_resumed(tmp_path: Path, change: dict, words: str) -> None:
    folder = tmp_path / "results.json.partial"
    fill(folder)
    with pytest.raises(UsageError, match=words):
        Journal(folder, {**RUN, **change}, resume=True)
    assert len(list(Journal(folder, RUN, resume=True).finished())) == 2  # nothing is lost


WITH_READER = """
import json, os, sys, time
from pathlib import Path
from retinanet.predict.journal import Journal
journal = Journal(Path(sys.argv[1]), json.loads(sys.argv[2]), resume=True)
reader = os.fork()
if reader:
    print(reader, flush=True)
time.sleep(600)
"""
"""A run that has forked a process to read images."""


def test_two_runs_do_not_write_the_same_results(tmp_path: Path) -> None:
    """Of another process, though not of what its end has left over."""
    folder = tmp_path / "results.json.partial"
    fill(folder)
    words = [sys.executable, "-c", WITH_READER, str(folder), json.dumps(RUN)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        reader = int(run.stdout.readline())
        try:
            for resume in (True, False):
                with pytest.raises(UsageError, match=r"Another run is writing results\.json"):
                    Journal(folder, RUN, resume=resume)
            run.kill()
            run.wait()
            assert len(list(Journal(folder, RUN, resume=True).finished())) == 2
        finally:
            run.kill()
            os.kill(reader, signal.SIGKILL)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "results.json.partial"
    folder.mkdir()
    (folder / "1.done").write_text("mine")
    with pytest.raises(UsageError, match="move it away"):
        Journal(folder, RUN, resume=False)
    assert (folder / "1.done").read_text() == "mine"
    with pytest.raises(UsageError, match="give another --output"):
        Journal(tmp_path / ("a" * 250 + ".partial"), RUN, resume=False)
    shutil.rmtree(folder)
    folder.write_text("a file")
    with pytest.raises(UsageError, match="move it away"):
        Journal(folder, RUN, resume=True)
