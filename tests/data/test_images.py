"""Every kind of picture that a data set may hold, and those that can't be one."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from retinanet.data.images import image_size, inspect_image, read_image, to_image
from retinanet.errors import DataError

ORIENTATION = 0x0112


@pytest.fixture
def photo():
    """Smooth, and different in each corner, 30 wide and 20 high."""
    y, x = np.mgrid[:20, :30]
    return np.stack([x * 8, y * 12, 255 - x * 4 - y * 6], axis=-1).astype(np.uint8)


def pixels(path):
    return read_image(path).permute(1, 2, 0).numpy()


def test_layout(tmp_path, photo):
    Image.fromarray(photo).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == torch.uint8
    assert image.shape == (3, 20, 30)
    assert image.stride() == (1, 90, 3)
    np.testing.assert_array_equal(image.permute(1, 2, 0), photo)
    assert image_size(str(tmp_path / "a.png")) == (20, 30)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_exif_orientation_is_applied(tmp_path, photo, orientation, suffix):
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(photo).save(path, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    np.testing.assert_array_equal(pixels(path), expected)
    assert image_size(path) == expected.shape[:2] == ((30, 20) if 5 <= orientation <= 8 else (20, 30))


def test_a_broken_exif_block_does_not_matter(tmp_path, photo):
    plain, broken = io.BytesIO(), tmp_path / "a.jpg"
    Image.fromarray(photo).save(plain, "jpeg")
    Image.fromarray(photo).save(broken, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xffnonsense")
    np.testing.assert_array_equal(pixels(broken), np.asarray(Image.open(plain)))
    assert image_size(broken) == (20, 30)


@pytest.mark.parametrize("suffix", ["tif", "jpg"])
def test_cmyk(tmp_path, photo, suffix):
    # Pillow's conversion to CMYK uses no black, so its inverse is the photo.
    Image.fromarray(photo).convert("CMYK").save(tmp_path / f"a.{suffix}", quality=100)
    np.testing.assert_allclose(pixels(tmp_path / f"a.{suffix}").astype(int), photo, atol=4)


def test_greyscale_and_bilevel(tmp_path, photo):
    Image.fromarray(photo[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(pixels(tmp_path / "grey.png"), np.repeat(photo[..., :1], 3, axis=2))
    Image.fromarray(photo[..., 0] > 100).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(pixels(tmp_path / "bits.png")[..., 1], np.where(photo[..., 0] > 100, 255, 0))


def test_alpha_is_dropped(tmp_path, photo):
    alpha = np.arange(600, dtype=np.uint8).reshape(20, 30, 1)
    Image.fromarray(np.concatenate([photo, alpha], axis=2)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), photo)
    Image.fromarray(np.concatenate([photo[..., :1], alpha], axis=2)).save(tmp_path / "grey.png")
    assert Image.open(tmp_path / "grey.png").mode == "LA"
    np.testing.assert_array_equal(pixels(tmp_path / "grey.png")[..., 2], photo[..., 0])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("transparency", [None, 3, bytes(range(16))])
def test_palette(tmp_path, transparency):
    colours = np.random.default_rng(0).integers(0, 256, (16, 3), dtype=np.uint8)
    indices = np.arange(16, dtype=np.uint8).reshape(4, 4)
    picture = Image.fromarray(indices)
    picture.putpalette(colours.tobytes())
    picture.save(tmp_path / "a.png", **({} if transparency is None else {"transparency": transparency}))
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), colours[indices])


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bits_are_scaled_not_clipped(tmp_path, suffix):
    values = np.array([[0, 0x0100, 0x7F00, 0x8000, 0xFF00, 0xFFFF]], np.uint16)
    if suffix == "pgm":  # not every Pillow writes it
        (tmp_path / "a.pgm").write_bytes(b"P5 6 1 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    assert pixels(tmp_path / f"a.{suffix}")[0].tolist() == [[value] * 3 for value in (0, 1, 127, 128, 255, 255)]


def test_16_bit_colour(tmp_path):
    # Pillow can't write it, so the file is put together by hand: filter byte 0, then big-endian samples.
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    row = b"\0" + struct.pack(">HHH", 0x8000, 0x0100, 0xFFFF)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    assert pixels(tmp_path / "a.png").tolist() == [[[128, 1, 255]]]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_of_unknown_range_are_refused(tmp_path, mode):
    Image.new(mode, (3, 3)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="no known range"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("size", [(1, 1), (20_000, 3), (3, 20_000)])
def test_extreme_shapes(tmp_path, size):
    Image.new("RGB", size, (1, 2, 3)).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.shape == (3, size[1], size[0])
    assert image[:, -1, -1].tolist() == [1, 2, 3]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp", "gif"])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_never_half_a_picture(tmp_path, suffix, part):
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(DataError, match=path.name):
        read_image(path)


def test_the_sentence_names_the_file_and_the_trouble(tmp_path, photo, monkeypatch):
    with pytest.raises(DataError, match=r"absent\.jpg does not exist"):
        read_image(tmp_path / "absent.jpg")
    (tmp_path / "text.jpg").write_text("not an image")
    for function in (read_image, image_size):
        with pytest.raises(DataError, match=r"text\.jpg is not an image of a known format"):
            function(tmp_path / "text.jpg")
    with pytest.raises(DataError, match="can't be decoded"):
        read_image(tmp_path)
    Image.fromarray(photo).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"large\.png is too large"):
        read_image(tmp_path / "large.png")


def test_arrays_and_tensors(photo):
    expected = torch.from_numpy(photo).permute(2, 0, 1)
    assert torch.equal(to_image(photo), expected)
    assert torch.equal(to_image(photo[:, ::-1]), expected.flip(2))  # negative strides
    assert torch.equal(to_image(expected), expected)
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(to_image(expected.to(dtype) / 255), expected)
    assert to_image(torch.rand(3, 4, 5, dtype=torch.float16)).shape == (3, 4, 5)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 5, 3)), "array should be uint8 .* float64"),
        (np.zeros((3, 4, 5), np.uint8), r"array should be \[H, W, 3\] .*\[3, 4, 5\]"),
        (np.zeros((4, 5), np.uint8), r"this one is \[4, 5\]"),
        (np.zeros((4, 5, 4), np.uint8), r"this one is \[4, 5, 4\]"),
        (np.zeros((0, 5, 3), np.uint8), "not empty"),
        (torch.zeros(4, 5, 3), r"tensor should be \[3, H, W\] .*\[4, 5, 3\]"),
        (torch.zeros(1, 3, 4, 5), r"this one is \[1, 3, 4, 5\]"),
        (torch.zeros(3, 0, 5), "not empty"),
        (torch.zeros(3, 4, 5, dtype=torch.int64), "uint8 or floating point, this one is torch.int64"),
        (torch.full((3, 4, 5), 255.0), "0…1, this one spans 255…255"),
        (torch.full((3, 4, 5), -0.1), "spans -0.1"),
        (torch.full((3, 4, 5), float("nan")), "spans nan"),
        ("a.jpg", "this one is a str"),
        (None, "this one is a NoneType"),
    ],
)
def test_pictures_from_memory_that_are_none(picture, message):
    with pytest.raises(DataError, match=message):
        to_image(picture)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
def test_facts_of_a_file_agree_with_its_picture(tmp_path, suffix, orientation):
    """Four fields of grey tell which way up it is; JPEGs are decoded at a fraction of their size."""
    stored = np.kron(np.array([[0, 80], [160, 240]], np.uint8), np.ones((100, 150), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(stored).convert("RGB").save(path, exif=exif)
    facts = inspect_image(path, side=8)
    picture = read_image(path)
    assert facts.size == picture.shape[1:]
    assert facts.stored_size == (200, 300)
    assert (facts.orientation, facts.mode) == (orientation, "RGB")
    height, width = picture.shape[1:]
    fields = picture[0, height // 4 :: height // 2, width // 4 :: width // 2]
    assert np.abs(facts.thumbnail[2::4, 2::4].astype(int) - fields.numpy()).max() <= 3


def test_a_file_that_is_cut_off_has_no_facts(tmp_path):
    path = tmp_path / "a.jpg"
    Image.effect_noise((300, 200), 40).save(path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match="truncated"):
        inspect_image(path, side=8)
