"""A small data set of the demo's kind, a copy of its pictures to damage, and a count of DALI's pipelines."""

import pytest

from retinanet.data import dali_pool
from retinanet.data.synthetic import make_dataset


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "train"
    make_dataset(folder, 14, 40, seed=0, aspects=(1.0, 1.5, 0.7), empty=0.2)
    return folder


@pytest.fixture
def folder(source, tmp_path):
    """A copy that a test may damage."""
    images = tmp_path / "images"
    images.mkdir()
    for path in source.iterdir():
        (images / path.name).write_bytes(path.read_bytes())
    return images


@pytest.fixture
def pipelines_made(monkeypatch):
    """The arguments of each of DALI's pipelines that is made; at first none is ready."""
    made = []

    class Counted(dali_pool.DaliPipeline):
        def __init__(self, *arguments):
            made.append(arguments)
            super().__init__(*arguments)

    dali_pool._ready.clear()
    monkeypatch.setattr(dali_pool, "DaliPipeline", Counted)
    yield made
    dali_pool._ready.clear()
