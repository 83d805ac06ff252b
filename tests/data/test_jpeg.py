"""JPEGs without Pillow: the same pixels as with it, and nothing that it would judge otherwise."""

import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from retinanet.data import images, jpeg
from retinanet.data.images import image_size, read_image
from retinanet.errors import DataError

ORIENTATION = 0x0112


def encoded(picture, **options):
    file = io.BytesIO()
    picture.save(file, "jpeg", **options)
    return bytearray(file.getvalue())


@pytest.fixture
def photo():
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((61, 43), Image.Resampling.BICUBIC)


def by_pillow(content):
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))


def exif(orientation):
    block = Image.Exif()
    block[ORIENTATION] = orientation
    return block


def big_endian_exif(orientation):
    entries = struct.pack(">HHHIHH", 1, ORIENTATION, 3, 1, orientation, 0)
    return b"Exif\0\0MM\0*\0\0\0\x08" + entries + b"\0\0\0\0"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"quality": 30, "subsampling": 0},
        {"subsampling": 1},
        {"progressive": True},
        {"optimize": True, "restart_marker_blocks": 3},
        {"comment": b"\xff\xd9 is no end here"},
        {"exif": exif(1)},
    ],
)
def test_pixels_are_pillows_bit_for_bit(photo, options):
    pytest.importorskip("torchcodec")
    content = encoded(photo, **options)
    assert jpeg.read_header(content).size == (43, 61)
    picture = jpeg.decode(content)
    assert picture.is_contiguous() is False
    assert picture.stride() == (1, 183, 3)
    np.testing.assert_array_equal(picture.permute(1, 2, 0), by_pillow(content))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("block", [exif, big_endian_exif])
def test_orientation(photo, orientation, block):
    pytest.importorskip("torchcodec")
    content = encoded(photo, exif=block(orientation))
    header = jpeg.read_header(content)
    assert header.orientation == orientation
    assert header.size == ((61, 43) if orientation >= 5 else (43, 61))
    np.testing.assert_array_equal(jpeg.decode(content).permute(1, 2, 0), by_pillow(content))


def test_greyscale_becomes_rgb(photo):
    pytest.importorskip("torchcodec")
    content = encoded(photo.convert("L"))
    assert jpeg.read_header(content)
    np.testing.assert_array_equal(jpeg.decode(content).permute(1, 2, 0), by_pillow(content))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xd8",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8nonsense",
        b"\xff\xd8" + b"\xff\xe0\x00\x00" * 2,
    ],
)
def test_what_is_no_jpeg_has_no_header(content):
    assert jpeg.read_header(bytearray(content)) is None


@pytest.mark.parametrize("orientation", [0, 9, 1000])
def test_strange_orientations_are_left_to_pillow(photo, orientation):
    assert jpeg.read_header(encoded(photo, exif=big_endian_exif(orientation))) is None


def test_other_kinds_of_pixels_and_blocks_are_left_to_pillow(photo):
    assert jpeg.read_header(encoded(photo.convert("CMYK"))) is None
    assert jpeg.read_header(encoded(photo, keep_rgb=True)) is None
    assert jpeg.read_header(encoded(photo, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xffnonsense")) is None
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    assert jpeg.read_header(encoded(photo, xmp=xmp)) is None


def test_a_header_never_raises(photo):
    content = encoded(photo, exif=big_endian_exif(6))
    random = np.random.default_rng(0)
    for end in range(len(content)):
        jpeg.read_header(content[:end])
    for _ in range(2000):
        damaged = bytearray(content)
        for at in random.integers(2, 300, 3):
            damaged[at] = random.integers(256)
        jpeg.read_header(damaged)


def test_a_file_that_is_cut_off_is_seen_to_be(photo):
    content = encoded(photo, exif=exif(6), comment=b"\xff\xd9")
    header = jpeg.read_header(content)
    assert jpeg.is_whole(content, header)
    assert jpeg.is_whole(content + b"more", header)
    for end in range(header.scan, len(content)):
        assert not jpeg.is_whole(content[:end], header)
    assert jpeg.read_header(content[: header.scan - 1]) is None


def test_the_verdict_on_damaged_files_is_pillows(photo, tmp_path):
    """Whatever either decoder makes of a file that is cut off: it is refused, or it is the same picture."""
    whole, path = encoded(photo), tmp_path / "a.jpg"
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        try:
            expected = images._read_by_pillow(path)
        except DataError:
            with pytest.raises(DataError, match=r"a\.jpg"):
                read_image(path)
        else:
            assert torch.equal(read_image(path), expected)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("profile", [100, 200_000])
def test_the_size_in_the_header_is_that_of_the_picture(photo, tmp_path, profile, orientation):
    """That of a long header too, of which only the beginning is read at first."""
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(photo, exif=exif(orientation), icc_profile=bytes(profile)))
    assert image_size(path) == read_image(path).shape[1:]


def test_the_size_of_a_picture_that_is_cut_off_is_known(photo, tmp_path):
    content = encoded(photo)
    path = tmp_path / "a.jpg"
    path.write_bytes(content[: jpeg.read_header(content).scan + 10])
    assert image_size(path) == (43, 61)
    path.write_bytes(content[:100])
    with pytest.raises(DataError, match=r"a\.jpg"):
        image_size(path)


def test_too_large_a_picture_is_pillows_to_refuse(photo, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert jpeg.read_header(encoded(photo)) is None


def test_without_torchcodec_the_pictures_are_the_same(photo, tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(photo, exif=exif(8)))
    expected = read_image(path)
    monkeypatch.setattr(jpeg, "_torchcodec", lambda: None)
    assert torch.equal(read_image(path), expected)
