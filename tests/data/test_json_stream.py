"""The incremental reader against json.loads, at every possible cut of the text."""

import gzip
import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retinanet.data import json_stream
from retinanet.data.json_stream import stream_members
from retinanet.errors import DataError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
tops = st.dictionaries(st.text(max_size=8), values, max_size=5)


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "file.json"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def gather(path):
    """What stream_members yields, put together again (a top-level [] and [null] look alike)."""
    gathered = {}
    for key, element in stream_members(path):
        gathered.setdefault(key, []).append(element)
    return gathered


def expected(top):
    return {key: (value or [None]) if isinstance(value, list) else [value] for key, value in top.items()}


@given(tops, st.integers(1, 40), st.sampled_from([None, 2]), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
def test_equals_json_whatever_the_chunk(write, top, chunk, indent, ascii_only):
    path = write(json.dumps(top, indent=indent, ensure_ascii=ascii_only))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "CHUNK", chunk)
        assert gather(path) == expected(top)


def test_numbers_cut_by_a_chunk_are_whole(write, monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK", 3)
    assert gather(write('{"a": [123456789, -1.5e+10, 7], "b": 1234567}')) == {
        "a": [123456789, -1.5e10, 7],
        "b": [1234567],
    }


def test_nan_infinity_and_a_byte_order_mark_are_accepted(write):
    found = gather(write(b'\xef\xbb\xbf{"a": [NaN, -Infinity]}'))["a"]
    assert math.isnan(found[0])
    assert found[1] == -math.inf


@pytest.mark.parametrize("chunk", [1, 5, 1 << 20])
@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "line 1, column 1"),
        ("[1, 2]", "expected an object"),
        ('{"a": 1', "file's end"),
        ('{"a": [1, 2', "file's end"),
        ('{"a": [1, 2}', "line 1, column 12"),
        ('{"a": 1} x', "expected the end of the file at line 1, column 10"),
        ('{"a": 1,\n "b": [{"x": tru}]}', "line 2, column 14"),
        ('{\n"a": [{"x": 1},\n{"x" 2}]}', "line 3, column 6"),
        ('{"a": "never closed', "file's end at line 1, column 7"),
        ("{a: 1}", "line 1, column 2"),
        ('{"a": [1,]}', "line 1, column 10"),
        ("GIF89a", "line 1, column 1"),
    ],
)
def test_what_is_not_json_is_told_with_its_place(write, monkeypatch, chunk, text, where):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    with pytest.raises(DataError) as caught:
        gather(write(text))
    assert where in str(caught.value)
    assert "file.json" in str(caught.value)


def test_an_early_error_is_found_without_reading_on(write, monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK", 1000)
    path = write('{"a": [{"x": oops}, ' + "1, " * 100_000 + "1]}")
    reads = []

    class Counting:
        def __init__(self, file):
            self.file = file

        def read(self, count):
            reads.append(count)
            return self.file.read(count)

    with open(path) as file, pytest.raises(DataError, match="column 14"):
        list(json_stream._Reader(path, Counting(file)).members())
    assert sum(reads) == 1000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xd8\xff\xe0 a JPEG", "not UTF-8"),
        (gzip.compress(b'{"a": 1}', mtime=0), "unpacked"),
        (b'{"a": ' + b"[" * 200_000, "recursion"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
    ],
)
def test_other_ways_to_be_unreadable(write, content, message):
    with pytest.raises(DataError, match=message):
        gather(write(content))


def test_a_file_that_is_absent_or_a_folder(tmp_path):
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(DataError, match="can't be read"):
            gather(path)
