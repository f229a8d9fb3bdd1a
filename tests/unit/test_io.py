"""Image files: nothing is lost on the way in or out, and nothing half-written is left behind."""

import io
import os
import resource
import signal
import struct
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from safi_fast import atomic
from safi_fast.errors import ImageFileError, InputError
from safi_fast.io import ImageFile, list_images, read_image, write_image
from safi_fast.metrics import psnr

RNG = np.random.default_rng(0)
H, W, B = 21, 34, 3
FULL_DISK = OSError(28, "No space left on device")


def pixels(shape, dtype):
    if np.issubdtype(dtype, np.integer):
        return RNG.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)
    return RNG.random(shape).astype(dtype)


def like(array, kind="png", channel_axis=None, alpha=None):
    ranges = {"u1": 255.0, "u2": 65535.0, "f4": 1.0}
    return ImageFile(array, ranges.get(array.dtype.str[1:]), channel_axis, kind, alpha)


ROUND_TRIPS = [
    ("a.png", (H, W), np.uint8, None),
    ("a.png", (H, W), np.uint16, None),
    ("a.png", (H, W, 3), np.uint8, -1),
    ("a.png", (H, W, 3), np.uint16, -1),
    ("A.PNG", (H, W), np.uint8, None),
    ("a.tif", (H, W), np.uint8, None),
    ("a.tif", (H, W), np.uint16, None),
    ("a.tif", (H, W), np.int16, None),
    ("a.tif", (H, W), np.float32, None),
    ("a.tiff", (H, W, 3), np.uint8, -1),
    ("a.tif", (H, W, 3), np.uint16, -1),
    ("a.tif", (H, W, 3), np.float32, -1),
    ("a.tif", (B, H, W), np.uint8, None),
    ("a.tif", (B, H, W), np.uint16, None),
    ("a.tif", (B, H, W), np.float32, None),
    ("a.tif", (B, H, W, 3), np.uint8, -1),
    ("a.npy", (H, W), np.uint8, None),
    ("a.npy", (H, W), np.uint16, None),
    ("a.npy", (H, W), np.float32, None),
    ("a.npy", (B, H, W), np.float32, None),
    ("a.npy", (B, 1, H, W), np.float32, None),
    ("a.npy", (H, W, 3), np.float32, -1),
]


@pytest.mark.parametrize(("name", "shape", "dtype", "channel_axis"), ROUND_TRIPS)
def test_round_trip_is_exact(tmp_path, name, shape, dtype, channel_axis):
    array = pixels(shape, dtype)
    write_image(tmp_path / name, array, like(array, channel_axis=channel_axis))
    back = read_image(tmp_path / name)
    assert back.array.dtype == dtype
    assert back.channel_axis == channel_axis
    assert back.alpha is None
    assert back.data_range == {np.uint8: 255.0, np.uint16: 65535.0, np.float32: 1.0}.get(dtype)
    np.testing.assert_array_equal(back.array, array)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("name", "shape", "channel_axis"),
    [
        ("a.png", (H, W), None),
        ("a.png", (H, W, 3), -1),
        ("a.tif", (H, W), None),
        ("a.tif", (H, W, 3), -1),
        ("a.npy", (H, W, 3), -1),
    ],
)
def test_alpha_is_kept_aside_and_written_back(tmp_path, name, dtype, shape, channel_axis):
    array, alpha = pixels(shape, dtype), pixels((H, W), dtype)
    write_image(tmp_path / name, array, like(array, channel_axis=channel_axis, alpha=alpha))
    back = read_image(tmp_path / name)
    np.testing.assert_array_equal(back.array, array)
    np.testing.assert_array_equal(back.alpha, alpha)
    write_image(tmp_path / ("new" + name), 0.5 * back.array, back)
    np.testing.assert_array_equal(read_image(tmp_path / ("new" + name)).alpha, alpha)


def test_tiff_without_a_compression_tag(tmp_path):
    """As microscopes write it: the tag may be left out, and means no compression then."""
    array = pixels((H, W), np.uint8)
    tags = ((256, W), (257, H), (258, 8), (262, 1), (273, 8), (277, 1), (278, H), (279, H * W))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    header = struct.pack("<2sHI", b"II", 42, 8 + H * W)
    (tmp_path / "a.tif").write_bytes(header + array.tobytes() + struct.pack("<H", len(tags)) + entries + bytes(4))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, array)


def test_16_bit_colour_png_keeps_its_low_bits(tmp_path):
    array = np.full((H, W, 3), 0x1234, np.uint16)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(array))
    assert (read_image(tmp_path / "a.png").array == 0x1234).all()


@pytest.mark.parametrize("shape", [(64, 80), (64, 80, 3)])
def test_jpeg_round_trip_is_close(tmp_path, shape):
    ramp = np.linspace(0, 255, shape[1])[None, :] * np.ones((shape[0], 1))
    array = (ramp if len(shape) == 2 else np.stack([ramp, ramp[:, ::-1], 0.5 * ramp], -1)).astype(np.uint8)
    write_image(tmp_path / "a.jpg", array, like(array, channel_axis=None if array.ndim == 2 else -1))
    back = read_image(tmp_path / "a.jpg")
    assert back.kind == "jpeg"
    assert back.channel_axis == (None if array.ndim == 2 else -1)
    assert psnr(array, back.array, 255) > 40


def test_integers_are_rounded_and_clipped(tmp_path):
    original = np.zeros((2, 3), np.uint8)
    write_image(tmp_path / "a.png", np.array([[-3.0, 0.4, 0.6], [254.4, 255.6, 900.0]], np.float32), like(original))
    assert read_image(tmp_path / "a.png").array.tolist() == [[0, 0, 1], [254, 255, 255]]


@pytest.mark.parametrize(
    ("source", "data_range", "name", "expected"),
    [
        (np.float32, 1.0, "a.png", (np.uint16, 32768)),
        (np.float32, 1.0, "a.jpg", (np.uint8, 128)),
        (np.float32, 255.0, "a.png", (np.uint16, 32768)),
        (np.uint16, 65535.0, "a.jpg", (np.uint8, 128)),
        (np.uint16, 4095.0, "a.png", (np.uint16, 2048)),
        (np.uint8, 255.0, "a.tif", (np.uint8, 128)),
    ],
)
def test_another_format_spreads_the_range_only_where_the_dtype_changes(tmp_path, source, data_range, name, expected):
    array = np.full((16, 16), data_range / 2 if source is np.float32 else np.ceil(data_range / 2)).astype(source)
    write_image(tmp_path / name, array, ImageFile(array, data_range, None, "tiff"))
    back = read_image(tmp_path / name).array
    assert (back.dtype, back[0, 0]) == expected


def test_float64_is_stored_as_float32(tmp_path):
    np.save(tmp_path / "a.npy", pixels((H, W), np.float64))
    image = read_image(tmp_path / "a.npy")
    write_image(tmp_path / "b.npy", image.array.astype(np.float64), image)
    assert np.load(tmp_path / "b.npy").dtype == np.float32


def test_palette_and_bilevel_files_are_expanded(tmp_path):
    colour = Image.fromarray(pixels((H, W, 3), np.uint8)).quantize(16)
    bilevel = Image.fromarray(pixels((H, W), np.uint8)).convert("1")
    for suffix in ("png", "tif"):
        colour.save(tmp_path / f"colour.{suffix}")
        bilevel.save(tmp_path / f"bilevel.{suffix}")
        back = read_image(tmp_path / f"colour.{suffix}")
        assert back.channel_axis == -1
        np.testing.assert_array_equal(back.array, np.asarray(colour.convert("RGB")))
        assert set(np.unique(read_image(tmp_path / f"bilevel.{suffix}").array)) == {0, 255}


def test_palette_png_with_transparency_keeps_its_alpha(tmp_path):
    Image.fromarray(pixels((H, W, 3), np.uint8)).quantize(16).save(tmp_path / "a.png", transparency=3)
    image = read_image(tmp_path / "a.png")
    assert image.array.shape == (H, W, 3)
    assert set(np.unique(image.alpha)) == {0, 255}


def test_white_is_zero_tiff_is_inverted(tmp_path):
    array = pixels((H, W), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, 255 - array)


def test_planar_compressed_and_hyperstack_tiff(tmp_path):
    planar, hyper = pixels((3, H, W), np.uint16), pixels((2, 3, H, W), np.uint16)
    tifffile.imwrite(tmp_path / "p.tif", planar, photometric="rgb", planarconfig="separate", compression="zlib")
    tifffile.imwrite(tmp_path / "h.tif", hyper, imagej=True)
    np.testing.assert_array_equal(read_image(tmp_path / "p.tif").array, np.moveaxis(planar, 0, -1))
    np.testing.assert_array_equal(read_image(tmp_path / "h.tif").array, hyper.reshape(6, H, W))


def test_jpeg_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(np.zeros((16, 32), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").array.shape == (32, 16)


def encoded(suffix, array=None):
    array = pixels((200, 310), np.uint8) if array is None else array
    stream = io.BytesIO()
    if suffix == ".npy":
        np.save(stream, array)
    else:
        Image.fromarray(array).save(stream, {".png": "PNG", ".jpg": "JPEG", ".tif": "TIFF"}[suffix])
    return stream.getvalue()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".npy"])
def test_damaged_files_are_refused(tmp_path, suffix):
    path, whole = tmp_path / f"a{suffix}", encoded(suffix)
    path.write_bytes(b"")
    with pytest.raises(ImageFileError, match=r"a\..*: the file is empty \(0 bytes\)"):
        read_image(path)
    for part in (whole[:20], whole[: len(whole) // 2], whole[: len(whole) * 95 // 100], b"not an image at all"):
        path.write_bytes(part)
        with pytest.raises(ImageFileError, match=r"a\..*: is truncated, damaged or not a (PNG|JPEG|TIFF|NPY) file"):
            read_image(path)


def encoded_stack(writer):
    stream, stack = io.BytesIO(), pixels((4, 30, 35), np.uint8)
    if writer == "pillow":
        pages = [Image.fromarray(page) for page in stack]
        pages[0].save(stream, "TIFF", save_all=True, append_images=pages[1:])
    else:
        compression = "zlib" if writer == "compressed" else None
        tifffile.imwrite(stream, stack, photometric="minisblack", compression=compression)
    return stream.getvalue()


@pytest.mark.parametrize("writer", ["pillow", "plain", "compressed"])
def test_truncated_stack_is_refused(tmp_path, writer, capfd):
    path, whole = tmp_path / "a.tif", encoded_stack(writer)
    path.write_bytes(whole)
    expected = read_image(path).array
    for length in range(1, len(whole), 7):
        path.write_bytes(whole[:length])
        try:
            array = read_image(path).array
        except ImageFileError:
            continue
        np.testing.assert_array_equal(array, expected)  # what was cut off held no pixels
    assert capfd.readouterr().err == ""


def test_files_of_the_wrong_kind_are_refused(tmp_path):
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "jpeg.png").write_bytes(encoded(".jpg"))
    Image.fromarray(pixels((H, W, 3), np.uint8)).convert("CMYK").save(tmp_path / "cmyk.jpg")
    tifffile.imwrite(tmp_path / "complex.tif", np.zeros((H, W), np.complex64))
    with tifffile.TiffWriter(tmp_path / "mixed.tif") as writer:
        writer.write(np.zeros((H, W), np.uint8))
        writer.write(np.zeros((W, H), np.uint8))
    for name, message in {
        "missing.png": "no such file",
        "folder.png": r"cannot be read \(is a directory\)",
        "a.gif": r"unsupported extension '\.gif'; use one of \.png, \.jpg",
        "jpeg.png": "not a PNG file",
        "cmyk.jpg": "is a CMYK JPEG; convert it to grey or RGB",
        "complex.tif": "pixels of type complex64",
        "mixed.tif": "2 different shapes or types",
    }.items():
        with pytest.raises(ImageFileError, match=rf"{name}: .*{message}|{name}: {message}"):
            read_image(tmp_path / name)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5), r"shape \(5,\); expected \(H, W\)"),
        (np.zeros((2, 2, 5, 5)), r"4-d array must be \(B, 1, H, W\)"),
        (np.zeros((0, 5)), "holds no pixels"),
        (np.zeros((5, 5), complex), "pixels of type complex128"),
        (np.array([[None, "x"]], dtype=object), "allow_pickle=False"),
    ],
)
def test_arrays_that_are_no_images_are_refused(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(ImageFileError, match=message):
        read_image(tmp_path / "a.npy")


def test_what_a_format_cannot_hold_is_refused(tmp_path):
    stack, grey = pixels((B, H, W), np.uint8), pixels((H, W), np.uint8)
    with pytest.raises(ImageFileError, match=r"a stack of images does not fit into a PNG file; use \.tif or \.npy"):
        write_image(tmp_path / "a.png", stack, like(stack))
    with pytest.raises(ImageFileError, match="cannot hold the alpha channel"):
        write_image(tmp_path / "a.jpg", grey, like(grey, alpha=grey))
    with pytest.raises(ImageFileError, match="int16 pixels do not fit into PNG without a data range"):
        write_image(tmp_path / "a.png", grey.astype(np.int16), like(grey.astype(np.int16)))
    with pytest.raises(ImageFileError, match=r"unsupported extension '\.gif'"):
        write_image(tmp_path / "a.gif", grey, like(grey))
    with pytest.raises(InputError, match=r"array has shape \(21, 33\), but the image it comes from has \(21, 34\)"):
        write_image(tmp_path / "a.png", grey[:, 1:], like(grey))
    with pytest.raises(InputError, match="array holds NaN"):
        write_image(tmp_path / "a.png", np.full((H, W), np.nan), like(grey))
    assert not list(tmp_path.iterdir())


@contextmanager
def file_size_limit(size):
    """Writes beyond `size` bytes fail as they do on a full disk, after a part has been written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def raiser(error):
    def fail(*_args, **_kwargs):
        raise error

    return fail


@pytest.mark.parametrize("before", [None, b"an older result"])
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_full_disk_leaves_nothing(tmp_path, monkeypatch, before, function):
    target, array = tmp_path / "a.png", pixels((H, W), np.uint8)
    if before:
        target.write_bytes(before)
    monkeypatch.setattr(*((os, "fsync") if function == "fsync" else (Path, "replace")), raiser(FULL_DISK))
    with pytest.raises(ImageFileError, match=r"a\.png: cannot be written \(no space left on device\)"):
        write_image(target, array, like(array))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([before] if before else [])


def test_failure_in_the_middle_of_the_bytes_leaves_nothing(tmp_path):
    array = pixels((200, 200), np.uint8)
    with file_size_limit(5000), pytest.raises(ImageFileError, match=r"cannot be written \(file too large\)"):
        write_image(tmp_path / "a.npy", array, like(array))
    assert not list(tmp_path.iterdir())


def test_interrupt_in_the_middle_of_a_write_leaves_nothing(tmp_path, monkeypatch):
    array = pixels((H, W), np.uint8)
    monkeypatch.setattr(os, "fsync", raiser(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        write_image(tmp_path / "a.png", array, like(array))
    assert not list(tmp_path.iterdir())


HANGING_WRITE = """
import os, sys, time
from pathlib import Path
from safi_fast import atomic

def hang(descriptor):
    print("writing", flush=True)
    time.sleep(600)

os.fsync = hang
atomic.write_atomically(Path(sys.argv[1]), b"new")
"""


def test_hard_kill_keeps_the_old_file_and_the_next_write_cleans_up(tmp_path):
    target = tmp_path / "a.png"
    target.write_bytes(b"old")
    process = subprocess.Popen([sys.executable, "-c", HANGING_WRITE, str(target)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    assert target.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2
    atomic.write_atomically(target, b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]


def test_new_files_have_ordinary_permissions(tmp_path):
    atomic.write_atomically(tmp_path / "a.png", b"new")
    (tmp_path / "ordinary").touch()
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    array = pixels((H, W), np.uint8)
    with pytest.raises(ImageFileError, match=r"file/a\.png: cannot be written \(not a directory\)"):
        write_image(tmp_path / "file" / "a.png", array, like(array))
    with pytest.raises(ImageFileError, match=r"file/below: the output folder cannot be written \(not a directory\)"):
        atomic.prepare_folder(tmp_path / "file" / "below")
    with pytest.raises(ImageFileError, match=r"file: the output folder cannot be written \(file exists\)"):
        atomic.prepare_folder(tmp_path / "file")
    atomic.prepare_folder(tmp_path / "new" / "folder")
    assert not list((tmp_path / "new" / "folder").iterdir())


def test_list_images_sorts_folders_and_keeps_named_files(tmp_path):
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    for name in ("b.png", "a.TIF", "c.txt", ".hidden.png", "below/d.png"):
        (folder / name).touch()
    (tmp_path / "empty").mkdir()
    missing = tmp_path / "missing.png"
    assert list_images([missing, folder, folder / "b.png"]) == [missing, folder / "a.TIF", folder / "b.png"]
    with pytest.raises(ImageFileError, match=r"empty: the folder holds no images \(\.png, \.jpg"):
        list_images([tmp_path / "empty"])
