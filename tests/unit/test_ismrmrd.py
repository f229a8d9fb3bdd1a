"""ISMRMRD raw data: lines of k-space at the places that their counters say, without what is no image; what is refused.
The files are written here, in the layout of the format.
"""

import json

import numpy as np
import pytest
from models import phantom

from safi_fast import io
from safi_fast.cli.main import main
from safi_fast.errors import ImageFileError, InputError
from safi_fast.io.ismrmrd_header import encodings_of

h5py = pytest.importorskip("h5py", reason="HDF5 needs h5py")

H, W, COILS = 36, 40, 2  # of the image; twice as many samples are read
RNG = np.random.default_rng(11)
COUNTERS = (
    "kspace_encode_step_1",
    "kspace_encode_step_2",
    "average",
    "slice",
    "contrast",
    "phase",
    "repetition",
    "set",
)
IDX = np.dtype([(name, "<u2") for name in (*COUNTERS, "segment")] + [("user", "<u2", (8,))])
HEAD = np.dtype(
    [("version", "<u2"), ("flags", "<u8"), ("measurement_uid", "<u4"), ("scan_counter", "<u4"),
     ("acquisition_time_stamp", "<u4"), ("physiology_time_stamp", "<u4", (3,)), ("number_of_samples", "<u2"),
     ("available_channels", "<u2"), ("active_channels", "<u2"), ("channel_mask", "<u8", (16,)), ("discard_pre", "<u2"),
     ("discard_post", "<u2"), ("center_sample", "<u2"), ("encoding_space_ref", "<u2"),
     ("trajectory_dimensions", "<u2"), ("sample_time_us", "<f4"), ("position", "<f4", (3,)), ("read_dir", "<f4", (3,)),
     ("phase_dir", "<f4", (3,)), ("slice_dir", "<f4", (3,)), ("patient_table_position", "<f4", (3,)), ("idx", IDX),
     ("user_int", "<i4", (8,)), ("user_float", "<f4", (8,))]
)  # fmt: skip
FLOATS = h5py.special_dtype(vlen=np.dtype("<f4"))
ROW = np.dtype([("head", HEAD), ("traj", FLOATS), ("data", FLOATS)])
XML = """<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">{}</ismrmrdHeader>"""
ENCODING = """<encoding><encodedSpace><matrixSize><x>{nx}</x><y>{ny}</y><z>{nz}</z></matrixSize>
<fieldOfView_mm><x>{fx}</x><y>200</y><z>{fz}</z></fieldOfView_mm></encodedSpace><reconSpace><matrixSize><x>40</x>
<y>36</y><z>{rz}</z></matrixSize><fieldOfView_mm><x>200</x><y>200</y><z>{rfz}</z></fieldOfView_mm></reconSpace>
<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>{most}</maximum><center>{center}</center>
</kspace_encoding_step_1></encodingLimits><trajectory>{trajectory}</trajectory></encoding>"""
STANDARD = {"nx": 2 * W, "ny": H, "nz": 1, "fx": 400, "fz": 5, "rz": 1, "rfz": 5, "most": H - 1, "center": H // 2,
            "trajectory": "cartesian"}  # fmt: skip


def transform(images, axes=(-2, -1)):
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(images, axes), axes=axes, norm="ortho"), axes)


def scanned(slices=1):
    """Images (slices, COILS, H, W) and their lines with twice the samples (slices, COILS, H, 2 W), zero beyond."""
    image = phantom(H, W) * np.linspace(1, 0.5, slices)[:, None, None, None]
    image = image * np.stack([np.linspace(0.5, 1, W), 1j * np.linspace(1, 0.5, W)])[None, :, None, :]
    wide = np.zeros((slices, COILS, H, 2 * W), complex)
    wide[..., W // 2 : W // 2 + W] = image
    return image, transform(wide)


def line(values, step, flags=(), **facts):
    """A row of `data`: values (COILS, samples)."""
    row = np.zeros(1, ROW)
    head = row["head"]
    head["flags"] = sum(1 << (number - 1) for number in flags)
    head["number_of_samples"], head["active_channels"] = values.shape[1], len(values)
    head["center_sample"] = values.shape[1] // 2
    head["idx"]["kspace_encode_step_1"] = step
    for name, value in facts.items():
        if name in COUNTERS:
            head["idx"][name] = value
        else:
            head[name] = value
    row["traj"][0] = np.zeros(0, np.float32)
    row["data"][0] = np.ascontiguousarray(values, np.complex64).ravel().view(np.float32)
    return row


def write(path, rows, group="dataset", mode="w", header=None, **changes):
    table = np.empty(len(rows), ROW)
    for number, row in enumerate(rows):
        table[number] = row[0]
    with h5py.File(path, mode) as file:
        folder = file.create_group(group)
        folder.create_dataset("xml", (1,), dtype=h5py.special_dtype(vlen=bytes))
        folder["xml"][0] = header or XML.format(ENCODING.format(**STANDARD | changes)).encode()
        folder.create_dataset("data", data=table, maxshape=(None,))
    return path


def lines(kspace, steps=range(H), **facts):
    return [line(kspace[:, step], step, **facts) for step in steps]


def read(path, **options):
    return io.read_kspace(path, coils=True, **options)


def assert_shows(found, image):
    np.testing.assert_allclose(found.array, transform(image), atol=1e-5)
    assert found.array.dtype == np.complex64


def test_lines_in_any_order_without_what_is_no_image(tmp_path):
    image, k = scanned(2)
    rows = [row for number in (1, 0) for row in lines(k[number], RNG.permutation(H), slice=5 + number)]
    noise = RNG.standard_normal((COILS, 2 * W))
    rows.insert(0, line(RNG.standard_normal((COILS + 1, 17)), 0, (19,)))
    rows += [line(noise, 3, (flag,)) for flag in (20, 23, 24, 26, 27, 28, 29, 30, 31)]
    rows[5]["head"]["flags"] = (1 << 19) | (1 << 20)  # calibration and imaging
    found = read(write(tmp_path / "a.h5", rows))
    assert_shows(found, image)
    np.testing.assert_array_equal(found.mask, np.ones((H, 1), bool))
    assert found.layout == (
        "ISMRMRD; without 1 noise, 1 parallel calibration, 1 navigator, 1 phase correction, 2 feedback, 1 dummy, "
        "1 surface coil correction, 2 phase stabilization; readout oversampling removed"
    )


def test_lines_that_were_not_measured(tmp_path):
    image, (k,) = scanned()
    steps = np.array([0, 3, 6, *range(12, 24), 30])
    found = read(write(tmp_path / "a.h5", lines(k, steps)))
    np.testing.assert_array_equal(np.flatnonzero(found.mask), steps)
    expected = np.zeros_like(image)
    expected[..., steps, :] = transform(image)[..., steps, :]
    np.testing.assert_allclose(found.array, expected, atol=1e-5)
    assert not found.array[:, :, ~found.mask[:, 0]].any()
    two = lines(k, steps) + lines(k, steps[1:], slice=1)  # slices of other lines
    assert read(write(tmp_path / "b.h5", two)).mask is None


def test_the_middle_is_where_the_header_says(tmp_path):
    """Partial Fourier: counters begin at 0, but the first lines were not measured."""
    _, (k,) = scanned()
    rows = [line(k[:, step], step - 10) for step in range(10, H)]
    found = read(write(tmp_path / "a.h5", rows, most=H - 11, center=H // 2 - 10))
    np.testing.assert_array_equal(np.flatnonzero(found.mask), np.arange(10, H))
    with pytest.raises(
        ImageFileError, match=r"kspace_encode_step_1 from 0 to 25 with 30 in the middle, which do not fit"
    ):
        read(write(tmp_path / "b.h5", rows, center=30))


def test_averages_and_repetitions_are_averaged(tmp_path):
    image, (k,) = scanned()
    rows = lines(k) + lines(3 * k, average=1) + lines(5 * k, range(4), repetition=2)
    path = write(tmp_path / "a.h5", rows)
    expected = 2 * transform(image)
    expected[..., :4, :] *= 1.5
    found = read(path)
    np.testing.assert_allclose(found.array, expected, atol=2e-5)
    assert "up to 3 averaged" in found.layout
    assert_shows(read(path, select={"average": 1}), 3 * image)
    found = read(path, select={"repetition": 2})
    np.testing.assert_allclose(found.array[..., :4, :], 5 * transform(image)[..., :4, :], atol=2e-5)
    assert found.layout == "ISMRMRD; repetition 2; readout oversampling removed"


@pytest.mark.parametrize("counter", ["contrast", "phase", "set"])
def test_images_that_are_chosen(tmp_path, counter):
    image, (k,) = scanned()
    path = write(tmp_path / "a.h5", lines(k) + lines(2 * k, **{counter: 3}))
    with pytest.raises(ImageFileError, match=rf"has the {counter}s 0, 3, each an image of its own; .*{counter}=0"):
        read(path)
    assert_shows(read(path, select={counter: 3}), 2 * image)
    with pytest.raises(ImageFileError, match=rf"has no {counter} 1; it has 0, 3$"):
        read(path, select={counter: 1})
    with pytest.raises(InputError, match="select is colour=1; expected one of encoding, contrast, phase, set"):
        read(path, select={"colour": 1})


def test_encodings_that_are_chosen(tmp_path):
    image, (k,) = scanned()
    rows = lines(k) + [line(k[:, 0, W // 2 : -W // 2], step, encoding_space_ref=1) for step in range(4)]
    other = STANDARD | {"nx": W, "fx": 200}
    header = XML.format(ENCODING.format(**STANDARD) + ENCODING.format(**other)).encode()
    path = write(tmp_path / "a.h5", rows, header=header)
    with pytest.raises(ImageFileError, match="has the encodings 0, 1, each an image of its own"):
        read(path)
    assert_shows(read(path, select={"encoding": 0}), image)
    assert read(path, select={"encoding": 1}).array.shape == (1, COILS, H, W)
    with pytest.raises(ImageFileError, match="refers to encoding 1, but its header has 1"):
        read(write(tmp_path / "b.h5", rows), select={"encoding": 1})


def test_asymmetric_echoes_keep_all_that_is_read(tmp_path):
    _, (k,) = scanned()
    rows = [line(k[:, step, 20:], step, center_sample=W - 20) for step in range(H)]
    found = read(write(tmp_path / "a.h5", rows))
    assert "readout oversampling kept, as echoes are asymmetric" in found.layout
    np.testing.assert_allclose(found.array[0][..., 20:], k[..., 20:], atol=1e-5)
    assert not found.array[..., :20].any()
    np.testing.assert_array_equal(found.mask, np.arange(2 * W) >= 20 * np.ones((H, 1)))


def test_samples_to_be_discarded(tmp_path):
    image, (k,) = scanned()
    wider = np.pad(k, ((0, 0), (0, 0), (3, 2)), constant_values=99)
    rows = lines(wider, discard_pre=3, discard_post=2, center_sample=W + 3)
    assert_shows(read(write(tmp_path / "a.h5", rows)), image)


def test_a_volume_becomes_slices(tmp_path):
    image, _ = scanned(4)
    volume = np.zeros((6, COILS, H, 2 * W), complex)  # two slices of oversampling
    volume[1:5, ..., W // 2 : W // 2 + W] = image
    k = _along(transform(volume))
    rows = [row for z in range(6) for row in lines(k[z], kspace_encode_step_2=z)]
    path = write(tmp_path / "a.h5", rows, nz=6, fz=12, rz=4, rfz=8)
    found = read(path)
    assert_shows(found, image)
    assert "slices by the transform along kspace_encode_step_2" in found.layout
    with pytest.raises(ImageFileError, match="is a 3-D scan without all lines of kspace_encode_step_2"):
        read(write(tmp_path / "b.h5", rows[:-1], nz=6))


def _along(k):
    return np.fft.fftshift(np.fft.fft(np.fft.ifftshift(k, 0), axis=0, norm="ortho"), 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"trajectory": "radial"},
            "has the trajectory radial; expected cartesian: save its samples .* --trajectory FILE",
        ),
        ({"trajectory": "epi"}, "has the trajectory epi; expected cartesian: correct its reversed lines"),
        ({"nx": W}, "has 80 samples with 40 in the middle, which do not fit the encoded matrix of 40"),
        ({"nx": 0}, r"is truncated, damaged or not an ISMRMRD file \(its encoded matrix is \(0, 36, 1\)\)"),
        ({"ny": 10**6, "nx": 10**6}, "declares .* values, .* bytes cannot hold"),
        ({"header": b"<a/>"}, "refers to encoding 0, but its header has 0"),
        ({"header": b"<a"}, "is truncated, damaged or not an ISMRMRD file"),
    ],
)
def test_refused_headers(tmp_path, change, message):
    with pytest.raises(ImageFileError, match=message):
        read(write(tmp_path / "a.h5", lines(scanned()[1][0]), **change))


def test_refused_lines(tmp_path):
    _, (k,) = scanned()
    good = lines(k)
    short = lines(k)
    short[3]["data"][0] = short[3]["data"][0][:-2]
    cases = {
        "36 of its 36 lines are read in reverse": lines(k, flags=(22,)),
        "has lines of 1, 2 coils; expected the same coils in all": [*good, line(k[:1, 0], 0)],
        "holds no lines of an image, only 36 noise$": lines(k, flags=(19,)),
        "holds no acquisitions": [],
        "holds compressed acquisitions": lines(k, flags=(53,)),
        "acquisition 3 holds 318 numbers; expected 2 x 2 coils x 80 samples": short,
    }
    for number, (message, rows) in enumerate(cases.items()):
        with pytest.raises(ImageFileError, match=message):
            read(write(tmp_path / f"{number}.h5", rows))


@pytest.mark.parametrize("byte", [8, 24, 25, 31])
def test_a_damaged_heap(tmp_path, byte):
    """HDF5 itself would look through it for ever."""
    path = write(tmp_path / "a.h5", lines(scanned()[1][0]))
    data = bytearray(path.read_bytes())
    data[data.rindex(b"GCOL") + byte] ^= 0x15
    path.write_bytes(data)
    with pytest.raises(ImageFileError, match=r"a\.h5: is truncated, damaged .* of its heap at byte \d+ do not fill it"):
        read(path)


def test_a_row_that_declares_more_than_the_file_holds(tmp_path):
    """HDF5 itself would take memory for it."""
    path = write(tmp_path / "a.h5", lines(scanned()[1][0]))
    with h5py.File(path) as file:
        rows = file["dataset"]["data"].id
        place = rows.get_chunk_info(0).byte_offset + rows.get_type().get_member_offset(2)
    data = bytearray(path.read_bytes())
    data[place : place + 4] = (2**31).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ImageFileError, match=r"a row declares 2147483648 values, which its \d+ bytes cannot hold"):
        read(path)


def test_several_scans_in_a_file(tmp_path):
    image, (k,) = scanned()
    path = write(tmp_path / "a.h5", lines(k))
    write(path, lines(2 * k), "second", "a")
    with pytest.raises(ImageFileError, match="holds the scans dataset, second; say which with --variable NAME"):
        read(path)
    assert_shows(read(path, name="second"), 2 * image)
    with pytest.raises(InputError, match=r"layout is 'chw', but .*a\.h5 is ISMRMRD, whose axes are known"):
        read(path, name="second", layout="chw")
    np.save(tmp_path / "k.npy", k)
    with pytest.raises(InputError, match=r"select is set, but .*k\.npy is no ISMRMRD file"):
        read(tmp_path / "k.npy", select={"set": 0})


def test_the_centre_of_a_header_without_limits():
    text = XML.format(ENCODING.format(**STANDARD)).replace("kspace_encoding_step_1>", "other>")
    (found,) = encodings_of(np.array([text], object))
    assert found.centers == (W, H // 2, 0)
    assert (found.kept(0), found.kept(1), found.kept(2)) == (W, H, 1)


def test_on_the_command_line(tmp_path, capsys, model):
    image, (k,) = scanned()
    steps = [step for step in range(H) if step % 2 == 0 or 10 < step < 26]
    path = write(tmp_path / "a.h5", lines(k, steps) + lines(k, steps, contrast=1))
    command = ["reconstruct", "mri", str(path), "-o", str(tmp_path / "x.npy"), "--estimate-maps", "--maps-method",
               "low_resolution", "--model", str(model), "--strength", "1e-4", "--max-outer", "1", "--max-iter", "15",
               "--json"]  # fmt: skip
    assert main(command) == 1
    assert "say which with --select contrast=0" in capsys.readouterr().err
    assert main([*command, "--select", "contrast=1"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["files"][0]["layout"].startswith("ISMRMRD; contrast 1")
    found, truth = abs(np.load(tmp_path / "x.npy")), np.sqrt((abs(image[0]) ** 2).sum(0))
    found *= (found * truth).sum() / (found**2).sum()
    assert np.linalg.norm(found - truth) < 0.2 * np.linalg.norm(truth)
    assert main([*command, "--select", "contrast"]) == 2
    assert "'contrast' is not NAME=N, such as contrast=1" in capsys.readouterr().err
