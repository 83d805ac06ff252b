import errno
import os
import subprocess
import sys

import pytest
import torch

from retinanet.errors import RetinaNetError, UsageError
from retinanet.files import atomic_write, require_writable


def test_target_appears_whole_and_only_at_the_end(tmp_path):
    target = tmp_path / "model.pth"
    target.write_text("old")
    with atomic_write(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".pth"
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, RuntimeError, OSError])
def test_failure_inside_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "model.pth"
    target.write_text("old")
    with pytest.raises(error, match="reason"), atomic_write(target) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise error("reason")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_permissions_are_those_of_an_ordinary_file(tmp_path):
    (tmp_path / "ordinary").write_text("")
    with atomic_write(tmp_path / "ours") as temporary:
        temporary.write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_link_stays_a_link(tmp_path):
    (tmp_path / "runs").mkdir()
    link = tmp_path / "last.pth"
    link.symlink_to(tmp_path / "runs" / "7.pth")
    with atomic_write(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert (tmp_path / "runs" / "7.pth").read_text() == "new"


def test_device_is_written_not_replaced():
    with atomic_write("/dev/null") as temporary:
        temporary.write_text("x")
    require_writable("/dev/null")
    assert not os.path.isfile("/dev/null")


def test_long_names(tmp_path):
    target = tmp_path / ("é" * 120 + ".json")
    with atomic_write(target) as temporary:
        temporary.write_text("x")
    assert target.read_text() == "x"


def write(path):
    with atomic_write(path) as temporary:
        temporary.write_text("x")


@pytest.mark.parametrize("check", [require_writable, write])
def test_folder_that_is_missing_or_is_the_target(tmp_path, check):
    with pytest.raises(UsageError, match=r"no folder .*missing"):
        check(tmp_path / "missing" / "model.pth")
    with pytest.raises(UsageError, match="is a folder"):
        check(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_require_writable_leaves_no_trace(tmp_path):
    (tmp_path / "model.pth").write_text("old")
    require_writable(tmp_path / "model.pth")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("check", [require_writable, write])
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_rights(tmp_path, check):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UsageError, match="not writable"):
            check(tmp_path / "model.pth")
    finally:
        tmp_path.chmod(0o700)


def test_read_only_file_system(tmp_path):
    with pytest.raises(UsageError, match="not writable"), atomic_write(tmp_path / "model.pth") as temporary:
        raise OSError(errno.EROFS, "Read-only file system", str(temporary))


def test_unrelated_file_without_rights_is_not_blamed_on_the_target(tmp_path):
    with pytest.raises(PermissionError), atomic_write(tmp_path / "model.pth"):
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/image.jpg")


def test_full_disk(tmp_path):
    with (
        pytest.raises(RetinaNetError, match="disk is full") as caught,
        atomic_write(tmp_path / "model.pth") as temporary,
    ):
        raise OSError(errno.ENOSPC, "No space left on device", str(temporary))
    assert caught.value.exit_code == 1


def test_torch_save_that_runs_out_of_room(tmp_path):
    program = """
import resource, sys, torch
from retinanet.errors import RetinaNetError
from retinanet.files import atomic_write
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with atomic_write(sys.argv[1]) as temporary, temporary.open("wb") as file:
        torch.save({"weight": torch.zeros(100_000)}, file)
except RetinaNetError as error:
    print(error)
"""
    target = tmp_path / "model.pth"
    torch.save({"weight": torch.ones(2)}, target)
    done = subprocess.run([sys.executable, "-c", program, str(target)], capture_output=True, text=True, check=True)
    assert "beyond what is allowed" in done.stdout
    assert torch.load(target)["weight"].tolist() == [1, 1]
    assert list(tmp_path.iterdir()) == [target]
