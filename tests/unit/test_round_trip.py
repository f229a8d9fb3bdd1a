"""write(read(file)) keeps what docs/formats.md says is kept: values, depth, axes, tags; what is not kept is named, or
refused.
"""

import io
import json
import struct
import zlib
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import scipy.io
import tifffile
from PIL import Image, ImageCms

import safi_fast
from safi_fast.cli.main import main
from safi_fast.errors import ImageFileError, InputError
from safi_fast.io import (
    ifd,
    read_array,
    read_cfl,
    read_image,
    read_kspace,
    tiff_writing,
    write_cfl,
    write_image,
    write_result,
)
from safi_fast.io.formats import KINDS, FormatError, decode

RNG = np.random.default_rng(3)
H, W = 15, 22  # the filters need 13
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="1"/></x:xmpmeta>'


def levels(bits, shape=(H, W)):
    """All levels of that depth, as far as there is room, the first and the last among them."""
    values = RNG.integers(0, 2**bits, shape)
    values.flat[:2] = 0, 2**bits - 1
    return values


def again(path, name=None):
    """The file read, and read once more after it was written under another name; and what was lost."""
    before = read_image(path)
    target = path.with_name(f"again_{name or path.name}")
    lost = write_image(target, before.array, before)
    return before, read_image(target), lost


def assert_same(before, after):
    np.testing.assert_array_equal(after.array, before.array)
    assert after.array.dtype == before.array.dtype
    assert (after.white, after.data_range, after.channel_axis) == (before.white, before.data_range, before.channel_axis)
    assert (before.alpha is None) == (after.alpha is None)
    if before.alpha is not None:
        np.testing.assert_array_equal(after.alpha, before.alpha)


# Files made by hand, so that nothing that is tested also makes them.


def png(values, bits, colour_type=0, chunks=()):
    """A PNG file with those chunks before its pixels."""
    rows = values.reshape(len(values), -1)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + packed(row, bits) for row in rows))
    all_chunks = ((b"IHDR", header), *chunks, (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in all_chunks
    )


def packed(row, bits):
    text = "".join(format(int(value), f"0{bits}b") for value in row)
    text += "0" * (-len(text) % 8)
    return bytes(int(text[start : start + 8], 2) for start in range(0, len(text), 8))


def tiff(values, bits, photometric=1, extra=()):
    """An uncompressed little-endian TIFF file of one page; extra: entries (tag, type, number,
    value) whose value fits.
    """
    body = b"".join(packed(row, bits) for row in values)
    entries = [(256, 4, 1, W), (257, 4, 1, len(values)), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, photometric)]
    entries += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, len(values)), (279, 4, 1, len(body)), *extra]
    table = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    body += b"\0" * (len(body) % 2)
    return struct.pack("<2sHI", b"II", 42, 8 + len(body)) + body + struct.pack("<H", len(entries)) + table + bytes(4)


def exif(orientation=1):
    """A big-endian EXIF block: make, orientation, resolution, sizes, exposure time, a place,
    and a thumbnail behind it.
    """
    value = ifd.Value
    main_entries = {
        271: value(2, 5, b"Make\0"),
        274: value(3, 1, struct.pack("<H", orientation)),
        282: value(5, 1, struct.pack("<II", 300, 1)),
        283: value(5, 1, struct.pack("<II", 200, 1)),
        296: value(3, 1, struct.pack("<H", 2)),
        0x8769: {
            33434: value(5, 1, struct.pack("<II", 1, 125)),
            0xA002: value(4, 1, struct.pack("<I", W)),
            0xA003: value(4, 1, struct.pack("<I", H)),
        },
        0x8825: {1: value(2, 2, b"N\0"), 2: value(5, 3, struct.pack("<6I", 47, 1, 22, 1, 5, 1))},
    }
    big_endian = ifd.Header(">", False)
    block = bytearray(b"MM\0*\0\0\0\x08" + ifd.written(main_entries, 8, big_endian))
    link = 8 + 2 + 12 * len(main_entries)
    struct.pack_into(">I", block, link, len(block))
    return bytes(block + ifd.written({256: value(4, 1, struct.pack("<I", 160))}, len(block), big_endian))


# Depth and meaning of samples


@pytest.mark.parametrize("bits", [2, 4, 6, 10, 12, 14])
@pytest.mark.parametrize("inverted", [False, True])
def test_tiff_of_odd_depth_declares_its_white(tmp_path, bits, inverted):
    values, white = levels(bits), 2**bits - 1
    (tmp_path / "a.tif").write_bytes(tiff(values, bits, photometric=0 if inverted else 1))
    before, after, lost = again(tmp_path / "a.tif")
    np.testing.assert_array_equal(before.array, white - values if inverted else values)
    assert before.white == before.data_range == white
    assert lost == ()
    if bits > 8:
        assert_same(before, after)
        with tifffile.TiffFile(tmp_path / "again_a.tif") as file:
            assert file.pages[0].bitspersample == bits
    else:  # a result has more levels than such samples hold
        np.testing.assert_array_equal(after.array, np.rint(before.array.astype(float) * 255 / white))
        assert (after.array.dtype, after.white, after.data_range) == (np.uint8, None, 255)


@pytest.mark.parametrize("inverted", [False, True])
def test_bilevel_tiff_becomes_8_bits(tmp_path, inverted):
    values = levels(1)
    (tmp_path / "a.tif").write_bytes(tiff(values, 1, photometric=0 if inverted else 1))
    before, after, _ = again(tmp_path / "a.tif")
    np.testing.assert_array_equal(before.array, 255 * (1 - values if inverted else values))
    assert before.white is None
    assert_same(before, after)


@pytest.mark.parametrize("bits", [4, 12])
def test_colour_tiff_of_odd_depth(tmp_path, bits):
    values = levels(bits, (H, W, 3)).astype(np.uint8 if bits < 8 else np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", bitspersample=bits)
    before = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(before.array, values)
    assert (before.white, before.channel_axis) == (2**bits - 1, -1)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8"])
@pytest.mark.parametrize("suffix", ["tif", "npy"])
def test_every_dtype_of_tiff_and_npy(tmp_path, dtype, suffix):
    limits = np.iinfo(dtype) if dtype[0] in "ui" else None
    values = (RNG.integers(limits.min, limits.max, (H, W)) if limits else RNG.random((H, W))).astype(dtype)
    path = tmp_path / f"a.{suffix}"
    tifffile.imwrite(path, values) if suffix == "tif" else np.save(path, values)
    before, after, lost = again(path)
    np.testing.assert_array_equal(before.array, values if limits else values.astype(np.float32))
    assert before.white is None
    assert lost == ()
    assert_same(before, after)


@pytest.mark.parametrize("shape", [(3, H, W + 1), (2, H, W - 1, 3), (H, W - 1, 4)])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_stacks_colour_and_alpha_of_odd_depth(tmp_path, bits, shape):
    values = levels(bits, shape).astype(np.uint16)
    options = {3: {"photometric": "rgb"}, 4: {"photometric": "rgb", "extrasamples": ["unassalpha"]}}.get(shape[-1], {})
    tifffile.imwrite(tmp_path / "a.tif", values, bitspersample=bits, **{"photometric": "minisblack", **options})
    before, after, lost = again(tmp_path / "a.tif")
    np.testing.assert_array_equal(before.array, values[..., :3] if shape[-1] == 4 else values)
    assert before.white == 2**bits - 1
    assert lost == ()
    assert_same(before, after)


def test_imagej_stack_of_odd_depth(tmp_path):
    values = levels(12, (3, H, W)).astype(np.uint16)
    text = "ImageJ=1.53t\nimages=3\nslices=3\n"
    tifffile.imwrite(
        tmp_path / "a.tif", values, bitspersample=12, photometric="minisblack", metadata=None, description=text
    )
    before, after, _ = again(tmp_path / "a.tif")
    np.testing.assert_array_equal(before.array, values)
    assert_same(before, after)


def test_depths_on_whose_order_readers_differ_are_refused(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(levels(24), 24))
    with pytest.raises(ImageFileError, match=r"a\.tif: has 24 bits per sample; expected 1 to 16, or 32"):
        read_image(tmp_path / "a.tif")


def test_alpha_keeps_the_range_of_the_file(tmp_path):
    """Whatever --data-range says of the image."""
    values = levels(16, (H, W, 2))
    (tmp_path / "a.png").write_bytes(png(values, 16, 4))
    before = replace(read_image(tmp_path / "a.png"), data_range=1000.0)
    floats = replace(before, array=before.array / np.float32(65535), alpha=before.alpha / np.float32(65535))
    write_image(tmp_path / "b.png", floats.array, floats)
    np.testing.assert_array_equal(read_image(tmp_path / "b.png").alpha, before.alpha)


def test_floats_whose_white_is_zero_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", RNG.random((H, W)).astype("f4"), photometric="miniswhite")
    with pytest.raises(ImageFileError, match=r"a\.tif: holds floats whose white is zero .* save it with black as zero"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_png_of_small_depth_is_spread_over_8_bits(tmp_path, bits):
    values = levels(bits)
    (tmp_path / "a.png").write_bytes(png(values, bits))
    before, after, _ = again(tmp_path / "a.png")
    np.testing.assert_array_equal(before.array, values * (255 // (2**bits - 1)))
    assert before.white is None
    assert_same(before, after)


@pytest.mark.parametrize(("colour_type", "samples"), [(0, 1), (2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize("bits", [8, 16])
def test_png_of_every_kind(tmp_path, colour_type, samples, bits):
    values = levels(bits, (H, W, samples))
    (tmp_path / "a.png").write_bytes(png(values, bits, colour_type))
    before, after, lost = again(tmp_path / "a.png")
    np.testing.assert_array_equal(before.array, values[..., :3] if samples > 2 else values[..., 0])
    assert (before.alpha is not None) == (samples in (2, 4))
    assert lost == ()
    assert_same(before, after)


def test_transparent_colours_of_png_become_alpha(tmp_path):
    grey = levels(2)
    (tmp_path / "grey.png").write_bytes(png(grey, 2, 0, [(b"tRNS", struct.pack(">H", 1))]))
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png").alpha, np.where(grey == 1, 0, 255))
    palette, opacity = RNG.integers(0, 256, (4, 3), np.uint8), bytes([0, 80, 160])
    (tmp_path / "p.png").write_bytes(png(grey, 2, 3, [(b"PLTE", palette.tobytes()), (b"tRNS", opacity)]))
    before, after, _ = again(tmp_path / "p.png")
    np.testing.assert_array_equal(before.array, palette[grey])
    np.testing.assert_array_equal(before.alpha, np.array([0, 80, 160, 255])[grey])
    assert_same(before, after)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_png_with_sbit(tmp_path, bits):
    """As the standard has it, samples are scaled to 16 bits; unscaled ones are known by their values."""
    values, white = levels(bits), 2**bits - 1
    chunk = [(b"sBIT", bytes([bits]))]
    ways = {
        "linear": np.rint(values * 65535 / white).astype(int),
        "zeros": values << (16 - bits),
        "replicated": (values << (16 - bits)) | (values >> (2 * bits - 16)),
    }
    for name, scaled in ways.items():
        (tmp_path / f"{name}.png").write_bytes(png(scaled, 16, 0, chunk))
        assert read_image(tmp_path / f"{name}.png").data_range == 65535
        (tmp_path / f"{name}.png").write_bytes(png(scaled // 2**5, 16, 0, chunk))  # as if it were too dark
    (tmp_path / "a.png").write_bytes(png(values, 16, 0, chunk))
    before, after, lost = again(tmp_path / "a.png")
    np.testing.assert_array_equal(before.array, values)
    assert before.white == before.data_range == white
    assert lost == ()
    assert_same(before, after)


def test_a_dark_png_with_sbit_is_not_taken_for_an_unscaled_one(tmp_path):
    values = levels(12) // 64 << 4  # scaled, and below 4096
    (tmp_path / "a.png").write_bytes(png(values, 16, 0, [(b"sBIT", b"\x0c")]))
    before, after, _ = again(tmp_path / "a.png")
    assert before.data_range == after.data_range == 65535


def test_significant_bits_of_ome_are_white(tmp_path):
    metadata = {"axes": "ZYX", "SignificantBits": 12}
    values = levels(12, (3, H, W)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.ome.tif", values, metadata=metadata)
    before, after, _ = again(tmp_path / "a.ome.tif")
    assert before.white == 4095
    assert_same(before, after)
    tifffile.imwrite(tmp_path / "b.ome.tif", 2 * values, metadata=metadata)  # contradicts what it says
    assert read_image(tmp_path / "b.ome.tif").data_range == 65535


@pytest.mark.parametrize(
    ("name", "dtype", "white", "lost"),
    [
        ("a.png", np.uint16, 65535, ()),
        ("a.jpg", np.uint8, 255, ()),
        ("a.npy", np.uint16, 4095, ("depth of 12 bits (white is 4095)",)),
    ],
)
def test_declared_depth_in_another_format(tmp_path, name, dtype, white, lost):
    (tmp_path / "a.tif").write_bytes(tiff(np.full((H, W), 4095), 12))
    _, after, missing = again(tmp_path / "a.tif", name)
    assert after.array.dtype == dtype
    assert (after.array == white).all()
    assert missing == lost


def test_palette_tiff_of_8_and_of_16_bits(tmp_path):
    index, palette = levels(8).astype(np.uint8), RNG.integers(0, 256, (3, 256)).astype(np.uint16)
    for name, scale in (("wide.tif", 257), ("narrow.tif", 1)):
        tifffile.imwrite(tmp_path / name, index, photometric="palette", colormap=palette * np.uint16(scale))
        before, after, _ = again(tmp_path / name)
        np.testing.assert_array_equal(before.array, np.moveaxis(palette[:, index], 0, -1))
        assert_same(before, after)


PILLOW = [
    ("P", "numbers of colours in a palette"),
    ("RGBA", "with alpha"),
    ("LA", "with alpha"),
    ("1", ""),
    ("CMYK", ""),
]


@pytest.mark.parametrize(("mode", "meaning"), [*PILLOW, ("LAB", ""), ("YCbCr", ""), ("HSV", ""), ("RGBX", "")])
def test_pillow_images_that_are_no_brightness_are_refused(mode, meaning):
    image = Image.new(mode, (16, 16))
    with pytest.raises(
        InputError, match=rf'image is a Pillow image of mode .{mode}..*{meaning}.*pass image.convert\("RGB"\)'
    ):
        safi_fast.denoise(image, 25)


def test_pillow_images_of_many_frames_are_refused():
    stream = io.BytesIO()
    frames = [Image.fromarray(levels(8, (16, 16)).astype(np.uint8)) for _ in range(3)]
    frames[0].save(stream, "TIFF", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match=r"image is a Pillow image of 3 frames; .* pass image.copy\(\)"):
        safi_fast.denoise(Image.open(stream), 25)


def test_pillow_images_as_measurements():
    image = Image.fromarray(levels(8).astype(np.uint8))
    with pytest.raises(InputError, match=r"Pillow image of mode 'P' \(numbers of colours"):
        safi_fast.operators.Mask(image.convert("P"))
    mask = image.convert("1")
    np.testing.assert_array_equal(safi_fast.operators.Mask(mask).apply(np.ones((H, W))), np.asarray(mask))


# Frames and planes


def stack(shape, dtype=np.uint16):
    return levels(8, (*shape, H, W)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(("axes", "shape"), [("TZC", (2, 3, 4)), ("ZC", (3, 2)), ("T", (5,)), ("", ())])
def test_imagej_hyperstack(tmp_path, axes, shape, dtype):
    values = stack(shape, dtype)
    count = int(np.prod(shape))
    metadata = {
        "axes": f"{axes}YX", "spacing": 0.5, "unit": "um", "finterval": 0.25, "mode": "composite", "min": 3.0,
        "max": 200.0,
        "Info": "a\nb", "Labels": [f"plane {number}" for number in range(count)], "Ranges": (0.0, 99.0, 1.0, 255.0),
        "LUTs": [RNG.integers(0, 256, (3, 256), np.uint8)], "ROI": b"Iout0",
    }  # fmt: skip
    tifffile.imwrite(tmp_path / "a.tif", values, imagej=True, resolution=((9, 2), (7, 3)), metadata=metadata)
    before, after, lost = again(tmp_path / "a.tif")
    np.testing.assert_array_equal(before.array, values.reshape(-1, H, W) if axes else values)
    assert lost == ()
    assert_same(before, after)
    with tifffile.TiffFile(tmp_path / "a.tif") as one, tifffile.TiffFile(tmp_path / "again_a.tif") as two:
        assert (two.series[0].axes, two.series[0].kind) == (f"{axes}YX", "imagej")
        np.testing.assert_array_equal(two.asarray(), values)
        first, second = one.imagej_metadata, two.imagej_metadata
        np.testing.assert_array_equal(first.pop("LUTs"), second.pop("LUTs"))
        assert first == second
        assert [two.pages[0].tags[tag].value for tag in (282, 283, 296)] == [(9, 2), (7, 3), 1]


def test_hyperstack_behind_one_page_is_read_whole(tmp_path):
    """As ImageJ writes files of more than 4 GB: a single directory, all planes behind its own."""
    values, stream = stack((2, 3)), io.BytesIO()
    tifffile.imwrite(stream, values, imagej=True, metadata={"axes": "TZYX"})
    data = bytearray(stream.getvalue())
    kind, first = ifd.header(bytes(data))
    count = struct.unpack_from(f"{kind.order}H", data, first)[0]
    struct.pack_into(f"{kind.order}I", data, first + 2 + 12 * count, 0)
    (tmp_path / "a.tif").write_bytes(data)
    before, after, _ = again(tmp_path / "a.tif")
    np.testing.assert_array_equal(before.array, values.reshape(6, H, W))
    assert_same(before, after)
    with tifffile.TiffFile(tmp_path / "again_a.tif") as file:
        assert (len(file.pages), file.series[0].axes) == (6, "TZYX")


def test_hyperstack_that_lacks_planes_is_refused(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif",
        stack((2,)),
        description="ImageJ=1.11a\nimages=5\nslices=5\n",
        metadata=None,
        photometric="minisblack",
    )
    with pytest.raises(ImageFileError, match=r"a\.tif: its ImageJ description lists 5 planes, but it holds 2"):
        read_image(tmp_path / "a.tif")


OME = {
    "PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm",
    "PhysicalSizeZ": 2.0,
    "PhysicalSizeZUnit": "µm", "TimeIncrement": 0.1, "TimeIncrementUnit": "s", "Description": "Zelle, 37 °C",
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64, np.int16])
@pytest.mark.parametrize("axes", ["TZCYX", "CTZYX", "ZTCYX"])
def test_ome_hyperstack(tmp_path, dtype, axes):
    shape = tuple({"T": 2, "Z": 3, "C": 4}[axis] for axis in axes[:3])
    values = stack(shape, dtype)
    metadata = {"axes": axes, **OME, "Channel": {"Name": ["DAPI", "GFP", "Cy5", "trans"]}}
    tifffile.imwrite(tmp_path / "a.ome.tif", values, metadata=metadata)
    before, after, lost = again(tmp_path / "a.ome.tif")
    assert lost == ()
    assert_same(before, after)
    with tifffile.TiffFile(tmp_path / "again_a.ome.tif") as file:
        assert (file.series[0].axes, file.series[0].kind) == (axes, "ome")
        np.testing.assert_array_equal(file.asarray(), values)
        image = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]
        assert image["Description"] == OME["Description"]
        facts = image["Pixels"]
        assert {name: facts[name] for name in OME if name != "Description"} == {
            name: value for name, value in OME.items() if name != "Description"
        }
        assert [channel["Name"] for channel in facts["Channel"]] == ["DAPI", "GFP", "Cy5", "trans"]
        assert facts["Type"] == ("float" if np.dtype(dtype).kind == "f" else np.dtype(dtype).name)


def test_ome_planes_out_of_order(tmp_path):
    """The text says which page is which plane; the result holds them in the order of its axes."""
    values = stack((3,))
    tifffile.imwrite(tmp_path / "a.ome.tif", values, metadata={"axes": "ZYX"})
    text = tifffile.tiffcomment(tmp_path / "a.ome.tif")
    moved = "".join(f'<TiffData FirstZ="{z}" IFD="{2 - z}" PlaneCount="1"/>' for z in range(3))
    tifffile.imwrite(
        tmp_path / "b.tif", values, photometric="minisblack", metadata=None,
        description=text.replace('<TiffData IFD="0" PlaneCount="3"/>', moved),
    )  # fmt: skip
    before, after, _ = again(tmp_path / "b.tif")
    np.testing.assert_array_equal(before.array, values[::-1])
    assert_same(before, after)


def multi_file(uuids, own=None):
    planes = "".join(
        f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{uuid}</UUID></TiffData>'
        for z, (name, uuid) in enumerate(uuids)
    )
    root = f' UUID="urn:uuid:{own}"' if own else ""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"{root}>'
        f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="{W}" SizeY="{H}" '
        f'SizeZ="{len(uuids)}" SizeC="1" SizeT="1"><Channel ID="Channel:0:0" '
        f'SamplesPerPixel="1"/>{planes}</Pixels></Image></OME>'
    )


@pytest.mark.parametrize("own", ["1", None])
def test_one_of_many_files_of_an_ome_tiff_is_refused(tmp_path, own):
    """tests/unit/test_ome_set.py has sets of which all files are there."""
    text = multi_file([("a.ome.tif", 1), ("b.ome.tif", 2), ("c.ome.tif", 3)], own)
    tifffile.imwrite(tmp_path / "a.ome.tif", stack(()), description=text, metadata=None)
    missing = r"one file of a multi-file OME-TIFF, and of its 3 files these are missing: b\.ome\.tif, c\.ome\.tif; put"
    with pytest.raises(ImageFileError, match=missing):
        read_image(tmp_path / "a.ome.tif")
    alone = r"one file of a multi-file OME-TIFF, .* lie in (a\.ome\.tif, )?b\.ome\.tif, c\.ome\.tif; join them first"
    with pytest.raises(FormatError, match=alone):
        decode("tiff", (tmp_path / "a.ome.tif").read_bytes())


@pytest.mark.parametrize("own", ["1", None])
def test_an_ome_tiff_that_was_renamed_is_whole(tmp_path, own):
    values = stack(())
    tifffile.imwrite(tmp_path / "z.tif", values, description=multi_file([("a.ome.tif", 1)], own), metadata=None)
    before, after, _ = again(tmp_path / "z.tif")
    np.testing.assert_array_equal(before.array, values)
    assert before.tags.layout.style == after.tags.layout.style == "ome"
    assert_same(before, after)


def test_ome_tiff_whose_description_lies_elsewhere_is_refused(tmp_path):
    text = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><BinaryOnly '
        'MetadataFile="x.companion.ome" UUID="u"/></OME>'
    )
    tifffile.imwrite(tmp_path / "a.tif", stack(()), description=text, metadata=None)
    with pytest.raises(ImageFileError, match=r"which x\.companion\.ome describes; name that file instead, or join"):
        read_image(tmp_path / "a.tif")


def test_ome_tiff_with_a_damaged_description_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", stack(()), description="<OME><Image></OME>", metadata=None)
    with pytest.raises(ImageFileError, match=r"a\.tif: its OME-XML, which says where its planes lie, is damaged"):
        read_image(tmp_path / "a.tif")


def test_ome_tiff_with_blank_planes_is_refused(tmp_path):
    text = (
        multi_file([("a.tif", 1)], 1)
        .replace('SizeZ="1"', 'SizeZ="4"')
        .replace('IFD="0" PlaneCount="1"', 'IFD="0" PlaneCount="4"')
    )
    tifffile.imwrite(tmp_path / "a.tif", stack((2,)), description=text, metadata=None, photometric="minisblack")
    with pytest.raises(ImageFileError, match=r"a\.tif: .* of the 4 planes that its description lists are missing"):
        read_image(tmp_path / "a.tif")


def test_axes_of_tifffile(tmp_path):
    values = stack((2, 3, 5), np.int16)
    tifffile.imwrite(tmp_path / "a.tif", values, metadata={"axes": "TZCYX", "note": "mine"})
    before, after, lost = again(tmp_path / "a.tif")
    assert lost == ()
    assert_same(before, after)
    with tifffile.TiffFile(tmp_path / "again_a.tif") as file:
        assert file.series[0].axes == "TZCYX"
        assert file.shaped_metadata[0]["note"] == "mine"
        np.testing.assert_array_equal(file.asarray(), values)


def test_plain_pages_stay_plain(tmp_path):
    values = stack((4,))
    tifffile.imwrite(tmp_path / "a.tif", values, metadata=None, photometric="minisblack", description="four slices")
    before, after, lost = again(tmp_path / "a.tif")
    assert lost == ()
    assert_same(before, after)
    assert after.tags.description == "four slices"


def test_npy_says_which_axes_it_loses(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", stack((2, 3)), imagej=True, metadata={"axes": "TZYX"})
    assert again(tmp_path / "a.tif", "a.npy")[2] == ("name of the software", "ImageJ metadata and axes TZ")


def write_apng(path):
    frames = [Image.fromarray(levels(8).astype(np.uint8)) for _ in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def write_mpo(path):
    frames = [Image.fromarray(levels(8, (16, 16, 3)).astype(np.uint8)) for _ in range(2)]
    frames[0].save(path, "MPO", save_all=True, append_images=frames[1:])


def write_series(path):
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(stack(()), metadata={"axes": "YX"})
        writer.write(stack(()), metadata={"axes": "YX"})


def write_raw(path):
    with tifffile.TiffWriter(path) as writer:
        writer.write(levels(8, (8, 8)).astype(np.uint8), subifds=1, metadata=None)
        writer.write(levels(8, (32, 32)).astype(np.uint8), metadata=None)


def write_turned_pages(path):
    with tifffile.TiffWriter(path) as writer:
        for orientation in (1, 3):
            writer.write(stack(()), metadata=None, extratags=[(274, 3, 1, orientation, True)])


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("a.png", write_apng, "is an animation of 3 frames; save them as separate files"),
        ("a.jpg", write_mpo, r"holds 2 pictures \(MPO\); save them as separate files"),
        ("a.tif", write_series, "its pages have 2 images; save them as separate files"),
        ("a.tif", write_raw, r"holds a larger image in a sub-directory \(SubIFD\)"),
        ("a.tif", write_turned_pages, "its pages have different orientation tags"),
    ],
)
def test_more_frames_than_are_read_are_refused(tmp_path, name, make, message):
    make(tmp_path / name)
    with pytest.raises(ImageFileError, match=rf"{name}: {message}"):
        read_image(tmp_path / name)


def test_smaller_copies_are_named(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(levels(8, (32, 32)).astype(np.uint8), subifds=1, metadata=None)
        writer.write(levels(8, (16, 16)).astype(np.uint8), subfiletype=1, metadata=None)
    assert again(tmp_path / "a.tif")[2] == ("smaller copies of the image (pyramid, SubIFD)",)


# Tags

CHUNKS = [
    (b"gAMA", struct.pack(">I", 45455)),
    (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)),
    (b"sRGB", b"\1"),
    (b"tEXt", b"Title\0A view"),
    (b"zTXt", b"Comment\0\0" + zlib.compress(b"long " * 50)),
    (b"iTXt", b"Author\0\0\0de\0Verfasser\0" + "Jörg".encode()),
]


def write_file(name, path, orientation=1):
    """A file of every tag that its format can hold."""
    values = levels(8).astype(np.uint8)
    xmp = XMP.replace(b'"1"', b'"%d"' % orientation)
    if name == "png":
        more = [
            (b"iCCP", b"mine\0\0" + zlib.compress(ICC)),
            (b"pHYs", struct.pack(">IIB", 3780, 2835, 1)),
            (b"eXIf", exif(orientation)),
            (b"tEXt", b"Description\0a cell"),
            (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        ]
        path.write_bytes(png(values, 8, 0, [*CHUNKS, *more]))
    elif name == "jpeg":
        Image.fromarray(values).save(
            path, exif=b"Exif\0\0" + exif(orientation), icc_profile=ICC, comment=b"a cell", dpi=(300, 200), xmp=xmp
        )
    else:
        block = Image.Exif()
        block.load(b"Exif\0\0" + exif(orientation))
        block[270], block[306], block[700] = "a cell", "2026:01:02 03:04:05", xmp
        Image.fromarray(values).save(path, exif=block, icc_profile=ICC, dpi=(300, 200))
    return values


def facts(tags):
    """All tags in a form that does not depend on the format."""
    entries = ifd.parsed(tags.exif)
    return {
        "icc": tags.icc,
        "xmp": tags.xmp,
        "description": tags.description,
        "make": entries[271].data,
        "exposure": entries[0x8769][33434].data,
        "place": {tag: value.data for tag, value in entries[0x8825].items()},
        "dpi": [float(value) for value in (tags.resolution.per("inch").x, tags.resolution.per("inch").y)],
    }


EXPECTED = {
    "icc": ICC,
    "xmp": XMP,
    "description": "a cell",
    "make": b"Make\0",
    "exposure": struct.pack("<II", 1, 125),
    "place": {1: b"N\0", 2: struct.pack("<6I", 47, 1, 22, 1, 5, 1)},
}
SUFFIXES = {"png": "png", "jpeg": "jpg", "tiff": "tif"}


@pytest.mark.parametrize("target", SUFFIXES)
@pytest.mark.parametrize("source", SUFFIXES)
def test_tags_reach_every_format(tmp_path, source, target):
    write_file(source, tmp_path / f"a.{SUFFIXES[source]}")
    before, after, lost = again(tmp_path / f"a.{SUFFIXES[source]}", f"a.{SUFFIXES[target]}")
    if target != "jpeg":
        assert_same(before, after)
    expected_dpi = [96.012, 72.009] if source == "png" else [300, 200]
    for image in (before, after):
        found = facts(image.tags)
        assert found.pop("dpi") == pytest.approx(expected_dpi, rel=1e-3 if target != "jpeg" else 0.005)
        assert found == EXPECTED
    with Image.open(tmp_path / f"again_a.{SUFFIXES[target]}") as image:  # another reader
        block = image.getexif()
        assert (block[271], block.get_ifd(0x8769)[33434], block.get_ifd(0x8825)[1]) == ("Make", Fraction(1, 125), "N")
        assert image.info["icc_profile"] == ICC
        assert image.info["dpi"] == pytest.approx(expected_dpi, abs=0.6)
    if source == "png" and target != "png":
        assert lost == ("PNG chunks cHRM, gAMA, iTXt, sRGB, tEXt, zTXt",)
    else:
        assert lost == ()


def test_png_chunks_and_resolutions_are_exact(tmp_path):
    write_file("png", tmp_path / "a.png")
    before, after, _ = again(tmp_path / "a.png")
    assert after.tags.chunks == before.tags.chunks == tuple(CHUNKS)
    assert after.tags.resolution == before.tags.resolution
    assert (after.tags.resolution.x, after.tags.resolution.unit) == (3780, "m")
    with Image.open(tmp_path / "again_a.png") as image:  # another reader
        assert image.text["Title"] == "A view"
        assert image.text["Author"] == "Jörg"
        assert image.info["gamma"] == pytest.approx(0.45455)
        assert image.info["icc_profile"] == ICC
        assert image.getexif()[271] == "Make"


@pytest.mark.parametrize("unit", [1, 2, 3])
def test_tiff_resolution_is_exact(tmp_path, unit):
    tifffile.imwrite(
        tmp_path / "a.tif", stack(()), resolution=((300001, 1000), (77, 3)), resolutionunit=unit, metadata=None
    )
    again(tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "again_a.tif") as file:
        assert [file.pages[0].tags[tag].value for tag in (282, 283, 296)] == [(300001, 1000), (77, 3), unit]


@pytest.mark.parametrize("style", ["imagej", "ome"])
def test_pixel_size_of_microscopes_reaches_png(tmp_path, style):
    metadata = {"axes": "YX", "unit": "micron"} if style == "imagej" else OME
    options = {"imagej": True, "resolution": (4, 2)} if style == "imagej" else {"ome": True}
    fine = {"resolution": (5000, 5000)} if style == "imagej" else {}
    tifffile.imwrite(tmp_path / "a.tif", stack(()), metadata=metadata, **options)
    _, after, lost = again(tmp_path / "a.tif", "a.png")
    assert (after.tags.resolution.x, after.tags.resolution.y, after.tags.resolution.unit) == (4e6, 2e6, "m")
    assert lost == (f"{'ImageJ' if style == 'imagej' else 'OME'} metadata",)
    tifffile.imwrite(tmp_path / "a.tif", stack(()), metadata={**metadata, "PhysicalSizeX": 0.0002}, **options | fine)
    _, _, lost = again(tmp_path / "a.tif", "a.jpg")  # 16 bits cannot hold it
    assert "resolution" in lost


UPRIGHT = {
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: lambda a: np.rot90(a),
}  # fmt: skip


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", SUFFIXES)
def test_every_orientation_is_turned_upright(tmp_path, name, orientation):
    path = tmp_path / f"a.{SUFFIXES[name]}"
    values = write_file(name, path, orientation)
    before, after, _ = again(path)
    if name == "jpeg":
        with Image.open(path) as image:
            values = np.asarray(image)
    else:
        assert_same(before, after)
    np.testing.assert_array_equal(before.array, UPRIGHT[orientation](values))
    dpi = {"png": [96.012, 72.009]}.get(name, [300, 200])
    for image in (before, after):
        found = facts(image.tags)
        assert found.pop("dpi") == pytest.approx(dpi if orientation < 5 else dpi[::-1], rel=1e-3)
        assert found == EXPECTED
        assert image.tags.orientation == 1
    if name != "tiff":
        entries = ifd.parsed(after.tags.exif)
        assert entries[274].numbers() == (1,)
        assert entries[0x8769][0xA002].numbers() == (after.array.shape[1],)
        assert ifd.read(after.tags.exif, *ifd.header(after.tags.exif))[1] == 0  # no thumbnail of what it was


def test_orientation_turns_colour_alpha_and_stacks(tmp_path):
    values = levels(8, (2, H, W, 4)).astype(np.uint8)
    tags = [(274, 3, 1, 6, False)]
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extrasamples=["unassalpha"], extratags=tags)
    before, after, _ = again(tmp_path / "a.tif")
    np.testing.assert_array_equal(before.array, np.rot90(values[..., :3], -1, (1, 2)))
    np.testing.assert_array_equal(before.alpha, np.rot90(values[..., 3], -1, (1, 2)))
    assert_same(before, after)


def test_orientation_of_xmp_alone(tmp_path):
    values = levels(8).astype(np.uint8)
    xmp = XMP.replace(b'"1"', b'"3"')
    (tmp_path / "a.png").write_bytes(png(values, 8, 0, [(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)]))
    before, after, _ = again(tmp_path / "a.png")
    np.testing.assert_array_equal(before.array, values[::-1, ::-1])
    assert after.tags.xmp == XMP


def test_exif_of_older_png_files(tmp_path):
    text = b"\nexif\n%8d\n" % (len(exif(3)) + 6) + (b"Exif\0\0" + exif(3)).hex().encode() + b"\n"
    values = levels(8).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(png(values, 8, 0, [(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))]))
    before, after, _ = again(tmp_path / "a.png")
    np.testing.assert_array_equal(before.array, values[::-1, ::-1])
    assert ifd.parsed(after.tags.exif)[271].data == b"Make\0"


def test_what_no_output_gets_is_named(tmp_path, caplog):
    (tmp_path / "a.png").write_bytes(png(levels(8), 8, 0, [(b"bKGD", b"\0\1"), (b"eXIf", b"MM\0*")]))
    assert again(tmp_path / "a.png")[2] == ("PNG chunk bKGD", "EXIF (damaged)")
    damaged = bytearray(png(levels(8), 8, 0, [(b"gAMA", b"\0\0\1\0")]))
    damaged[damaged.index(b"gAMA") + 4] ^= 1
    (tmp_path / "b.png").write_bytes(damaged)
    assert again(tmp_path / "b.png")[2] == ("PNG chunk gAMA (damaged)",)
    assert not caplog.records  # a decoder's own complaints would land on standard error
    extra = [(33723, 1, 4, b"iptc", True), (65000, 3, 1, 7, True)]
    tifffile.imwrite(tmp_path / "a.tif", stack(()), metadata=None, extratags=extra)
    assert again(tmp_path / "a.tif")[2] == ("IPTC data", "TIFF tag 65000")
    (tmp_path / "c.tif").write_bytes(tiff(levels(12), 12, extra=[(34675, 7, 10**6, 100)]))
    assert again(tmp_path / "c.tif")[2] == ("TIFF tag InterColorProfile (damaged)",)
    with tifffile.TiffWriter(tmp_path / "pages.tif") as writer:
        for text in ("one", "two"):
            writer.write(stack(()), metadata=None, description=text)
    assert again(tmp_path / "pages.tif")[2] == ("descriptions of later pages",)
    write_file("tiff", tmp_path / "b.tif")
    assert again(tmp_path / "b.tif", "b.npy")[2] == ("ICC profile", "EXIF", "XMP", "description", "resolution")
    stream = io.BytesIO()
    Image.fromarray(levels(8).astype(np.uint8)).save(stream, "JPEG")
    segment = b"\xff\xed" + struct.pack(">H", 2 + 18) + b"Photoshop 3.0\0" + bytes(4)
    (tmp_path / "a.jpg").write_bytes(stream.getvalue()[:2] + segment + stream.getvalue()[2:])
    assert again(tmp_path / "a.jpg")[2] == ("IPTC and Photoshop data",)


@pytest.mark.parametrize("style", ["imagej", "ome", "png", "geo"])
def test_a_larger_image_has_smaller_pixels(tmp_path, style):
    path = tmp_path / "a.tif"
    if style == "imagej":
        tifffile.imwrite(
            path, stack(()), imagej=True, resolution=(4, 2), metadata={"axes": "YX", "unit": "um", "ROI": b"Iout0"}
        )
    elif style == "ome":
        tifffile.imwrite(path, stack(()), ome=True, metadata=OME)
    elif style == "geo":
        tifffile.imwrite(path, stack(()), metadata=None, extratags=[(33550, 12, 3, (30.0, 30.0, 0.0), True)])
        assert again(path)[2] == ()
        with tifffile.TiffFile(tmp_path / "again_a.tif") as file:
            assert file.pages[0].tags[33550].value == (30, 30, 0)
    else:
        path = tmp_path / "a.png"
        write_file("png", path)
    before = read_image(path)
    large = np.zeros((2 * H, 2 * W), before.array.dtype)
    lost = write_image(tmp_path / "large.tif", large, before.resized(large.shape, None))
    after = read_image(tmp_path / "large.tif")
    assert after.array.shape == large.shape
    if before.tags.resolution:
        double = before.tags.resolution.per("cm")
        found = after.tags.resolution.per("cm")
        assert (found.x, found.y) == (2 * double.x, 2 * double.y)
    if style == "ome":
        with tifffile.TiffFile(tmp_path / "large.tif") as file:
            pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
        assert (pixels["PhysicalSizeX"], pixels["PhysicalSizeY"], pixels["SizeX"]) == (0.125, 0.25, 2 * W)
    if style in ("imagej", "geo"):
        assert lost == ("regions of interest" if style == "imagej" else "georeference",)


@pytest.mark.parametrize("large", [False, True])
def test_entries_of_tiff_are_exact(tmp_path, monkeypatch, large):
    """In files of more than 4 GB (BigTIFF) too, and in the order of ImageJ, which is big-endian."""
    monkeypatch.setattr(tiff_writing, "CLASSIC", 0 if large else 2**32)
    block = Image.Exif()
    block.load(b"Exif\0\0" + exif())
    block[318], block[286], block[315] = (0.3127, 0.329), 1.5, "J. Doe"
    Image.fromarray(levels(8).astype(np.uint8)).save(tmp_path / "a.tif", exif=block)
    tifffile.imwrite(tmp_path / "b.tif", stack((2,), np.uint8), imagej=True, metadata={"axes": "ZYX"})
    both = read_image(tmp_path / "b.tif")
    both = replace(both, tags=replace(both.tags, exif=read_image(tmp_path / "a.tif").tags.exif))
    again(tmp_path / "a.tif")
    write_image(tmp_path / "again_b.tif", both.array, both)
    for name in ("a", "b"):
        with tifffile.TiffFile(tmp_path / f"again_{name}.tif") as file:
            assert (file.is_bigtiff, file.byteorder) == (large, "<" if name == "a" else ">")
            tags = file.pages[0].tags
            white = tags[318].value
            assert (white[0] / white[1], white[2] / white[3]) == pytest.approx((0.3127, 0.329))
            assert (tags[286].value, tags[315].value) == ((3, 2), "J. Doe")
            assert tags[0x8769].value["ExposureTime"] == (1, 125)
            assert tags[0x8825].value["GPSLatitude"] == (47, 1, 22, 1, 5, 1)
            assert file.asarray().shape == ((H, W) if name == "a" else (2, H, W))


def test_regions_of_ome_do_not_survive_another_size(tmp_path):
    tifffile.imwrite(tmp_path / "a.ome.tif", stack(()), metadata={"axes": "YX"})
    text = tifffile.tiffcomment(tmp_path / "a.ome.tif").replace("</OME>", '<ROI ID="ROI:0"><Union/></ROI></OME>')
    tifffile.imwrite(tmp_path / "b.tif", stack(()), metadata=None, description=text)
    before, after, lost = again(tmp_path / "b.tif")
    assert lost == ()
    assert "ROI:0" in after.tags.layout.text
    large = np.zeros((2 * H, 2 * W), np.uint16)
    assert write_image(tmp_path / "c.tif", large, before.resized(large.shape, None)) == ("regions of interest",)
    assert "ROI:0" not in read_image(tmp_path / "c.tif").tags.layout.text


@pytest.mark.parametrize("entry", [(3, 2**16), (3, 0), (4, 10**6), (5, 0), (5, 10**6)])
def test_entries_of_exif_without_their_data(tmp_path, entry):
    """The orientation, resolution or size that would be mended lies behind the end of the block."""
    wrong = b"".join(struct.pack("<HHII", tag, *entry, 10**6) for tag in (256, 274, 282, 283))
    block = ifd.HEADER + struct.pack("<H", 4) + wrong + bytes(4)
    (tmp_path / "a.png").write_bytes(png(levels(8), 8, 0, [(b"eXIf", block), (b"pHYs", struct.pack(">IIB", 9, 9, 1))]))
    before, after, _ = again(tmp_path / "a.png")
    assert_same(before, after)


def test_what_does_not_fit_into_a_segment_of_jpeg_is_named(tmp_path):
    big = ifd.block_of({271: ifd.Value(2, 70000, b"M" * 70000)})
    chunks = [(b"tEXt", b"Description\0" + b"d" * 70000), (b"eXIf", big)]
    (tmp_path / "a.png").write_bytes(png(levels(8), 8, 0, chunks))
    assert again(tmp_path / "a.png", "a.jpg")[2] == ("EXIF", "description")
    assert again(tmp_path / "a.png")[2] == ()


def test_rationals_are_as_near_as_32_bits_come():
    for value in (Fraction(1, 3), Fraction(10**12 + 1, 3), Fraction(10**20), Fraction(3, 10**12)):
        top, bottom = ifd.rational(value)
        assert 0 <= top < 2**32
        assert 0 < bottom < 2**32
    assert ifd.rational(Fraction(300001, 1000)) == (300001, 1000)


def write_measurement(path, values):
    if path.suffix == ".npz":
        np.savez(path, values=values, one=np.float64(1))
    elif path.name == "v5.mat":
        scipy.io.savemat(path, {"values": values})
    elif path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".cfl":
        write_cfl(path, values)
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            if path.suffix == ".mat":  # MATLAB's order of axes, and its complex numbers
                values = values.T
                if np.iscomplexobj(values):
                    pairs = np.empty(values.shape, [("real", "f4"), ("imag", "f4")])
                    pairs["real"], pairs["imag"] = values.real, values.imag
                    values = pairs
            file["values"] = values


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
@pytest.mark.parametrize("name", ["a.npy", "a.npz", "v5.mat", "v73.mat", "a.cfl", "a.h5"])
def test_measurements_keep_their_numbers(tmp_path, name, dtype):
    values = RNG.standard_normal((H, W)).astype(dtype)
    if dtype == np.complex64:
        values = values + np.complex64(1j) * RNG.standard_normal((H, W)).astype(np.float32)
    write_measurement(tmp_path / name, values)
    found = read_array(tmp_path / name, "values" if name == "a.h5" else None)
    np.testing.assert_array_equal(found, values)
    write_result(tmp_path / "b.npy", found)
    write_result(tmp_path / "b.cfl", found)
    assert np.load(tmp_path / "b.npy").dtype == (np.complex64 if name == "a.cfl" else dtype)
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), values)
    np.testing.assert_array_equal(read_cfl(tmp_path / "b.cfl"), values)


def test_fastmri_keeps_its_numbers(tmp_path):
    h5py = pytest.importorskip("h5py")
    kspace = (RNG.standard_normal((2, 3, H, W)) + 1j * RNG.standard_normal((2, 3, H, W))).astype(np.complex64)
    mask = np.arange(W) % 3 == 0
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"], file["mask"] = kspace, mask
    found = read_kspace(tmp_path / "a.h5", coils=True)
    np.testing.assert_array_equal(found.array, kspace)
    np.testing.assert_array_equal(found.mask, mask[None])
    write_result(tmp_path / "b.cfl", found.array[:, 0])
    np.testing.assert_array_equal(read_kspace(tmp_path / "b.cfl", coils=False).array[:, 0], kspace[:, 0])


def test_masks_with_alpha_are_refused(tmp_path):
    (tmp_path / "mask.png").write_bytes(png(levels(8, (H, W, 2)), 8, 4))
    with pytest.raises(
        ImageFileError, match=r"mask\.png: has an alpha channel, which is not used here; save it without"
    ):
        read_array(tmp_path / "mask.png")


def test_the_table_of_formats_names_every_extension():
    from pathlib import Path

    text = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    for suffix in (*KINDS, ".npz", ".mat", ".cfl", ".h5"):
        assert f"`{suffix}`" in text


# Through the command line


def test_tags_reach_the_output_of_denoise(tmp_path, capsys):
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    write_file("png", source / "a.png", 6)
    write_file("jpeg", source / "b.jpg", 3)
    values = 257 * stack((2, 2), np.uint16)
    tifffile.imwrite(
        source / "c.tif",
        values,
        imagej=True,
        resolution=(4, 4),
        metadata={"axes": "ZCYX", "unit": "um", "spacing": 2.0},
    )
    tifffile.imwrite(source / "d.ome.tif", values.astype(np.float32) / 65535, metadata={"axes": "CZYX", **OME})
    (source / "e.tif").write_bytes(tiff(levels(12), 12, extra=[(65000, 3, 1, 7)]))
    (source / "f.tif").write_bytes(tiff(levels(12), 12, extra=[(65000, 3, 1, 7)]))
    command = [
        "denoise",
        str(source),
        "-o",
        str(target),
        "--sigma",
        "25",
        "--max-outer",
        "1",
        "--max-inner",
        "1",
        "--json",
    ]
    assert main(command) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["lost"] == ["TIFF tag 65000"]
    assert [record.get("lost") for record in report["files"]] == [None] * 4 + [["TIFF tag 65000"]] * 2
    assert err.splitlines() == [
        f"safi-fast: warning: not carried over: TIFF tag 65000, of {source / 'e.tif'} (and 1 more)"
    ]
    for name in ("a.png", "b.jpg"):
        found = facts(read_image(target / name).tags)
        del found["dpi"]
        assert found == EXPECTED
    assert read_image(target / "a.png").array.shape == (W, H)
    with tifffile.TiffFile(target / "c.tif") as file:
        assert file.series[0].axes == "ZCYX"
        assert file.imagej_metadata["spacing"] == 2
        assert file.pages[0].tags[282].value == (4, 1)
    with tifffile.TiffFile(target / "d.ome.tif") as file:
        assert (file.series[0].axes, file.series[0].kind) == ("CZYX", "ome")
    with tifffile.TiffFile(target / "e.tif") as file:
        assert file.pages[0].bitspersample == 12


@pytest.mark.parametrize("problem", ["superres", "inpaint"])
def test_alpha_of_reconstructed_images(tmp_path, capsys, problem):
    """And the report says what is lost."""
    values = levels(8, (H, W, 4))
    values[..., 3] = np.linspace(10, 240, W)
    (tmp_path / "a.png").write_bytes(png(values, 8, 6, [(b"bKGD", bytes(6))]))
    np.save(tmp_path / "mask.npy", np.arange(H * W).reshape(H, W) % 5 != 0)
    options = ["--factor", "2"] if problem == "superres" else ["--mask", str(tmp_path / "mask.npy")]
    command = ["reconstruct", problem, str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png"), "--strength", "1e-3"]
    assert main([*command, *options, "--max-outer", "1", "--max-iter", "1", "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["lost"] == report["files"][0]["lost"] == ["PNG chunk bKGD"]
    assert err.splitlines() == [f"safi-fast: warning: not carried over: PNG chunk bKGD, of {tmp_path / 'a.png'}"]
    alpha = read_image(tmp_path / "b.png").alpha
    if problem == "inpaint":
        np.testing.assert_array_equal(alpha, values[..., 3])
        return
    assert alpha.shape == (2 * H, 2 * W)
    assert 10 <= alpha.min() <= alpha.max() <= 240
    ramp = 10 + 230 / (W - 1) * (np.arange(2 * W) / 2 - 0.25)
    np.testing.assert_allclose(alpha[:, 4:-4], np.broadcast_to(ramp, alpha.shape)[:, 4:-4], atol=1.5)
