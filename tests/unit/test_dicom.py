"""DICOM files and series: values in the units of the file, tags of a derived image, what is refused, and folders that
are there whole or not at all. The files are those that pydicom comes with, and cuts of them.
"""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from safi_fast import atomic
from safi_fast.cli.main import main
from safi_fast.errors import BackendError, ImageFileError, InputError
from safi_fast.io import list_images, packages, read_image, write_image

pydicom = pytest.importorskip("pydicom", reason="DICOM files need the extra `medical`")
from pydicom.data import get_testdata_file  # noqa: E402

SIDE = 32
QUICK = ["--model", "safi-gray-fast", "--schedule", "unrolled", "--max-outer", "1", "--max-inner", "2"]


def sample(name):
    """A file that pydicom ships, which is not downloaded."""
    return Path(get_testdata_file(name, download=False))


def cut(name, **tags):
    """A sample of 32 x 32 pixels, not compressed, with other tags; None removes one."""
    dataset = pydicom.dcmread(sample(name))
    pixels = dataset.pixel_array[:SIDE, :SIDE]
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.add_new("PixelData", "OW", pixels.tobytes())
    for keyword, value in tags.items():
        setattr(dataset, keyword, value) if value is not None else delattr(dataset, keyword)
    return dataset


def series(folder, slices=3, name="CT_small.dcm", **tags):
    """Slices in a folder, the file names and numbers of which run against their positions."""
    folder.mkdir(parents=True)
    for number in range(slices):
        dataset = cut(name, **tags)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        x, y, _ = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, -10 * number]
        dataset.InstanceNumber = number + 1
        dataset.PixelData = (dataset.pixel_array + np.int16(number)).astype("<i2").tobytes()
        dataset.save_as(folder / f"IM{number:02d}")
    return folder


def written(path):
    return pydicom.dcmread(path)


def untouched(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "name",
    ["CT_small.dcm", "MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_RLE.dcm",
     "MR_small_jp2klossless.dcm", "examples_overlay.dcm"],
)  # fmt: skip
def test_pixels_and_tags_come_back(tmp_path, name):
    before = read_image(sample(name))
    assert write_image(tmp_path / "a.dcm", before.array, before) == ()
    old, new = written(sample(name)), written(tmp_path / "a.dcm")
    np.testing.assert_array_equal(new.pixel_array, old.pixel_array)
    np.testing.assert_array_equal(read_image(tmp_path / "a.dcm").array, before.array)
    ours = {"ImageType", "SOPInstanceUID", "SeriesInstanceUID", "SeriesDescription", "DerivationDescription",
            "SourceImageSequence", "PixelData", "SmallestImagePixelValue", "LargestImagePixelValue"}  # fmt: skip
    for element in old:
        if element.tag.element and element.keyword not in ours:
            assert new[element.tag] == element
    assert {new[element.tag].keyword for element in new if element.tag not in old} <= ours


def test_tags_of_a_derived_image(tmp_path):
    before = read_image(sample("MR_small.dcm"))
    like = before.result(4095.0, "made so")
    write_image(tmp_path / "a.dcm", before.array, like)
    old, new = written(sample("MR_small.dcm")), written(tmp_path / "a.dcm")
    assert list(new.ImageType) == ["DERIVED", "SECONDARY", "OTHER"]
    assert new.DerivationDescription == "made so"
    assert new.SeriesDescription == "(denoised)"
    (source,) = new.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == old.SOPInstanceUID
    assert source.ReferencedSOPClassUID == old.SOPClassUID
    assert source.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    assert len({new.SOPInstanceUID, old.SOPInstanceUID, new.SeriesInstanceUID, old.SeriesInstanceUID}) == 4
    assert new.file_meta.MediaStorageSOPInstanceUID == new.SOPInstanceUID
    assert new.StudyInstanceUID == old.StudyInstanceUID
    assert (new.SmallestImagePixelValue, new.LargestImagePixelValue) == (127, 2145)
    write_image(tmp_path / "b.dcm", before.array, like)
    assert (tmp_path / "b.dcm").read_bytes() == (tmp_path / "a.dcm").read_bytes()
    write_image(tmp_path / "c.dcm", before.array, before.result(4095.0, "made otherwise"))
    assert written(tmp_path / "c.dcm").SeriesInstanceUID != new.SeriesInstanceUID
    long = {"SeriesDescription": "x" * 64, "DerivationDescription": "first"}
    cut("MR_small.dcm", **long, DigitalSignaturesSequence=[]).save_as(tmp_path / "in.dcm")
    before, out = read_image(tmp_path / "in.dcm"), tmp_path / "out"
    out.mkdir()
    assert write_image(out / "d.dcm", before.array, before) == ("digital signatures",)
    new = written(out / "d.dcm")
    assert new.SeriesDescription == "x" * 53 + " (denoised)"
    assert new.DerivationDescription == "first; noise removed by safi-fast"


def test_tags_that_break_the_standard_are_kept(tmp_path):
    dataset = cut("MR_small.dcm")
    dataset.add(pydicom.DataElement("ImageType", "CS", ["A", "B", "not upper case"], validation_mode=0))
    dataset.add(pydicom.DataElement("SOPInstanceUID", "UI", "1.02.3", validation_mode=0))
    dataset.file_meta.add(pydicom.DataElement("MediaStorageSOPInstanceUID", "UI", "1.02.3", validation_mode=0))
    with pydicom.config.disable_value_validation():
        dataset.save_as(tmp_path / "a.dcm")
    before, out = read_image(tmp_path / "a.dcm"), tmp_path / "out"
    out.mkdir()
    write_image(out / "a.dcm", before.array, before)
    with pydicom.config.disable_value_validation():
        new = written(out / "a.dcm")
        assert list(new.ImageType) == ["DERIVED", "SECONDARY", "not upper case"]
        assert new.SourceImageSequence[0].ReferencedSOPInstanceUID == "1.02.3"


def test_rescaled_values_are_solved_and_stored_integers_written(tmp_path):
    cut("CT_small.dcm", RescaleSlope=2, RescaleIntercept=-1000).save_as(tmp_path / "a.dcm")
    before, stored = read_image(tmp_path / "a.dcm"), written(tmp_path / "a.dcm").pixel_array
    assert before.array.dtype == np.float32
    np.testing.assert_array_equal(before.array, 2.0 * stored - 1000)
    out = tmp_path / "out"
    out.mkdir()
    assert write_image(out / "a.dcm", before.array + 0.9, before) == ()
    np.testing.assert_array_equal(written(out / "a.dcm").pixel_array, stored)
    (lost,) = write_image(out / "a.dcm", np.full_like(before.array, 1e6), before)
    assert lost == "values beyond -66536 to 64534, which 16 bits hold (clipped)"
    assert (written(out / "a.dcm").pixel_array == 32767).all()
    assert written(out / "a.dcm").RescaleSlope == 2


def test_bits_stored_are_white_and_limit_what_is_written(tmp_path):
    like = read_image(sample("examples_overlay.dcm"))
    assert (like.white, like.data_range, like.array.dtype) == (4095, 4095, np.uint16)
    (lost,) = write_image(tmp_path / "a.dcm", np.full(like.array.shape, 5000.0), like)
    assert lost == "values beyond 0 to 4095, which 12 bits hold (clipped)"
    assert (written(tmp_path / "a.dcm").pixel_array == 4095).all()
    assert write_image(tmp_path / "a.tif", like.array, like) == ("DICOM tags",)
    assert read_image(tmp_path / "a.tif").white == 4095
    with pytest.raises(ImageFileError, match="needs the tags of a patient"):
        write_image(tmp_path / "b.dcm", like.array, replace(like, tags=type(like.tags)()))


def test_monochrome1_is_inverted_and_back(tmp_path):
    stored = cut("examples_overlay.dcm").pixel_array
    cut("examples_overlay.dcm", PhotometricInterpretation="MONOCHROME1").save_as(tmp_path / "a.dcm")
    before = read_image(tmp_path / "a.dcm")
    np.testing.assert_array_equal(before.array, 4095 - stored)
    (tmp_path / "out").mkdir()
    write_image(tmp_path / "out" / "a.dcm", before.array, before)
    np.testing.assert_array_equal(written(tmp_path / "out" / "a.dcm").pixel_array, stored)


def test_padding_is_no_part_of_the_image(tmp_path):
    dataset = cut("CT_small.dcm")  # whose padding value is -2000
    pixels = dataset.pixel_array.copy()
    pixels[:4] = -2000
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(tmp_path / "a.dcm")
    before = read_image(tmp_path / "a.dcm")
    assert before.array.min() == pixels[4:].min() - 1024
    (tmp_path / "out").mkdir()
    write_image(tmp_path / "out" / "a.dcm", before.array + 5, before)
    np.testing.assert_array_equal(written(tmp_path / "out" / "a.dcm").pixel_array[:4], -2000)
    np.testing.assert_array_equal(written(tmp_path / "out" / "a.dcm").pixel_array[4:], pixels[4:] + 5)


def test_frames_that_are_alike(tmp_path):
    dataset = cut("MR_small.dcm", NumberOfFrames=2)
    frames = np.stack([np.frombuffer(dataset.PixelData, "<i2").reshape(SIDE, SIDE)] * 2)
    frames[1] += 7
    dataset.PixelData = frames.tobytes()
    dataset.save_as(tmp_path / "a.dcm")
    before = read_image(tmp_path / "a.dcm")
    np.testing.assert_array_equal(before.array, frames)
    (tmp_path / "out").mkdir()
    write_image(tmp_path / "out" / "a.dcm", before.array, before)
    np.testing.assert_array_equal(written(tmp_path / "out" / "a.dcm").pixel_array, frames)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SC_rgb_rle.dcm", r"has the photometric interpretation RGB; expected MONOCHROME1 or MONOCHROME2"),
        (
            "MR_small_jpeg_ls_lossless.dcm",
            r"JPEG-LS .* cannot be decoded here; .* pip install pylibjpeg pylibjpeg-libj",
        ),
        ("test-SR.dcm", r"holds no image \(modality SR\); expected grey integers"),
        ("rtdose.dcm", "has BitsAllocated 32, BitsStored 32, HighBit 31; expected 8 or 16"),
        ("MR_truncated.dcm", "is truncated, damaged or not a DICOM file"),
    ],
)
def test_refused_files(name, message):
    with pytest.raises(ImageFileError, match=message):
        read_image(sample(name))


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"SharedFunctionalGroupsSequence": []}, "is an enhanced multi-frame file, .* series of single files"),
        ({"ModalityLUTSequence": []}, "has a Modality LUT; expected RescaleSlope and RescaleIntercept"),
        ({"SOPInstanceUID": None, "SeriesInstanceUID": ""}, "lacks SOPInstanceUID, SeriesInstanceUID$"),
        ({"RescaleSlope": 0}, "has RescaleSlope 0 and RescaleIntercept -1024; expected a slope but zero"),
        ({"BitsStored": 9}, "has BitsAllocated 16, BitsStored 9, HighBit 15; expected 8 or 16 bits allocated"),
    ],
)
def test_refused_tags(tmp_path, tags, message):
    cut("CT_small.dcm", **tags).save_as(tmp_path / "a.dcm")
    with pytest.raises(ImageFileError, match=message):
        read_image(tmp_path / "a.dcm")


def test_a_declared_size_that_the_bytes_cannot_hold(tmp_path):
    dataset = cut("MR_small.dcm", Rows=65535, Columns=65535)
    dataset.save_as(tmp_path / "a.dcm")
    with pytest.raises(ImageFileError, match=r"declares 1 x 65535 x 65535 values, .* which its \d+ bytes cannot hold"):
        read_image(tmp_path / "a.dcm")


def test_without_pydicom(monkeypatch):
    path = sample("MR_small.dcm")
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"DICOM needs pydicom; install it with pip install pydicom$"):
        read_image(path)


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm"])
def test_an_unknown_range_is_asked_for(name):
    with pytest.raises(InputError, match=r"image holds .*values.*, here .* black and white are not known; pass data_r"):
        read_image(sample(name)).meaning()
    assert read_image(sample(name)).meaning((-1024.0, 3071.0)).scale == 4095
    assert read_image(sample(name)).data_range is None


class TestSeries:
    def test_slices_lie_as_in_the_patient(self, tmp_path):
        found = read_image(series(tmp_path / "in"))
        one = cut("CT_small.dcm").pixel_array.astype(np.float32) - 1024
        np.testing.assert_array_equal(found.array, [one + 2, one + 1, one])
        assert found.tags.origin.names == ("IM02", "IM01", "IM00")

    def test_by_number_where_positions_do_not_say(self, tmp_path):
        found = read_image(series(tmp_path / "in", ImageOrientationPatient=None))
        assert found.tags.origin.names == ("IM00", "IM01", "IM02")

    def test_there_and_back(self, tmp_path):
        source = series(tmp_path / "in")
        before, bytes_before = read_image(source), untouched(source)
        assert write_image(tmp_path / "out", before.array, before.result(1.0, "so")) == ()
        after = read_image(tmp_path / "out")
        np.testing.assert_array_equal(after.array, before.array)
        assert after.tags.origin.names == before.tags.origin.names
        files = [written(path) for path in (tmp_path / "out").iterdir()]
        assert len({file.SeriesInstanceUID for file in files}) == 1
        assert len({file.SOPInstanceUID for file in files}) == 3
        assert untouched(source) == bytes_before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]

    def test_each_slice_has_its_own_slope(self, tmp_path):
        """As in PET; and without words for how it was made they are one series all the same."""
        source = series(tmp_path / "in")
        for number, path in enumerate(sorted(source.iterdir())):
            dataset = pydicom.dcmread(path)
            dataset.RescaleSlope, dataset.RescaleIntercept = 0.5 + number, 0
            dataset.save_as(path)
        found = read_image(source)
        one = cut("CT_small.dcm").pixel_array.astype(np.float32)
        np.testing.assert_array_equal(found.array, [2.5 * (one + 2), 1.5 * (one + 1), 0.5 * one])
        write_image(tmp_path / "out", found.array, found)
        np.testing.assert_array_equal(read_image(tmp_path / "out").array, found.array)
        assert len({written(path).SeriesInstanceUID for path in (tmp_path / "out").iterdir()}) == 1

    def test_files_one_by_one_stay_one_series(self, tmp_path):
        source = series(tmp_path / "in")
        whole = read_image(source).result(1.0, "so")
        write_image(tmp_path / "out", whole.array, whole)
        shutil.copy(source / "IM01", tmp_path / "one.dcm")
        one = read_image(tmp_path / "one.dcm").result(1.0, "so")
        write_image(tmp_path / "out" / "one.dcm", one.array, one)
        assert (tmp_path / "out" / "one.dcm").read_bytes() == (tmp_path / "out" / "IM01").read_bytes()

    def test_several_series_are_named(self, tmp_path):
        source = series(tmp_path / "in", SeriesDescription="chest")
        cut("MR_small.dcm").save_as(source / "other.dcm")
        with pytest.raises(
            ImageFileError,
            match=r"holds 2 series: .*CT chest \(3 files, IM00 first\); .*MR \(1 files, other\.dcm .*move",
        ):
            read_image(source)

    def test_slices_of_several_sizes(self, tmp_path):
        source = series(tmp_path / "in")
        dataset = pydicom.dcmread(source / "IM01")
        dataset.Rows, dataset.PixelData = SIDE // 2, dataset.PixelData[: len(dataset.PixelData) // 2]
        dataset.save_as(source / "IM01")
        with pytest.raises(ImageFileError, match=r"several sizes: IM02 has 32 x 32, IM01 has 16 x 32; move each size"):
            read_image(source)

    def test_a_slice_that_cannot_be_read_is_named(self, tmp_path):
        source = series(tmp_path / "in", PhotometricInterpretation="PALETTE COLOR")
        with pytest.raises(ImageFileError, match="in: IM00 has the photometric interpretation PALETTE COLOR"):
            read_image(source)
        source = series(tmp_path / "damaged")
        (source / "IM01").write_bytes((source / "IM01").read_bytes()[:-1000])
        with pytest.raises(ImageFileError, match="IM01 is truncated, damaged or not a DICOM file"):
            read_image(source)

    def test_which_folders_are_one(self, tmp_path):
        source = series(tmp_path / "in")
        (source / "notes.txt").write_text("hello")
        assert list_images([source], series=True) == [source]
        assert len(read_image(source).array) == 3
        np.save(source / "a.npy", np.zeros((3, 3)))
        with pytest.raises(ImageFileError, match=r"holds DICOM files and other images \(a\.npy\); move them apart"):
            list_images([source], series=True)

    def test_nothing_goes_into_the_folder_of_the_input(self, tmp_path):
        source = series(tmp_path / "in")
        found = read_image(source)
        for target in (source, source / "out", source / "a.tif"):
            with pytest.raises(ImageFileError, match="lies in the folder of the DICOM input"):
                write_image(target, found.array, found)
        with pytest.raises(ImageFileError, match="a series of 3 files goes into a folder"):
            write_image(tmp_path / "a.dcm", found.array, found)

    def test_an_interrupted_write_leaves_nothing(self, tmp_path, monkeypatch):
        found = read_image(series(tmp_path / "in"))
        fsync, calls = os.fsync, []

        def interrupted(stream):
            calls.append(stream)
            if len(calls) == 2:
                raise KeyboardInterrupt
            fsync(stream)

        monkeypatch.setattr(atomic.os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_image(tmp_path / "out", found.array, found)
        assert [path.name for path in tmp_path.iterdir()] == ["in"]

    def test_an_older_result_is_replaced_whole_or_stays(self, tmp_path, monkeypatch):
        found = read_image(series(tmp_path / "in"))
        (tmp_path / "out").mkdir()  # empty
        write_image(tmp_path / "out", found.array, found)
        before = untouched(tmp_path / "out")
        rename, calls = Path.rename, []

        def failing(self, target):
            calls.append(self)
            if len(calls) == 2:
                raise PermissionError(13, "no")
            return rename(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", failing)
            with pytest.raises(ImageFileError, match=r"out: cannot be written \(no\)"):
                write_image(tmp_path / "out", found.array, found)
        assert untouched(tmp_path / "out") == before
        write_image(tmp_path / "out", found.array, found.result(1.0, "again"))
        assert untouched(tmp_path / "out") != before
        (tmp_path / "out" / "mine.txt").write_text("kept")
        with pytest.raises(
            ImageFileError, match=r"holds mine\.txt, which is not of this result; choose another folder"
        ):
            write_image(tmp_path / "out", found.array, found)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]

    def test_what_a_killed_process_left_is_removed(self, tmp_path):
        left = tmp_path / f"{atomic.PREFIX}no-owner{atomic.SCRATCH}"
        left.mkdir()
        (left / "IM00").write_bytes(b"half")
        os.utime(left, (0, 0))
        atomic.sweep(tmp_path)
        assert not left.exists()


class TestCommandLine:
    def run(self, capsys, *arguments):
        code = main(["denoise", *map(str, arguments), *QUICK, "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else None, err

    def test_a_series(self, tmp_path, capsys):
        source = series(tmp_path / "in")
        command = (source, "-o", tmp_path / "out", "--sigma", "5", "--data-range", "-1024", "3071")
        code, report, err = self.run(capsys, *command)
        assert (code, err) == (0, "")
        (record,) = report["files"]
        assert (record["input"], record["output"]) == (str(source), str(tmp_path / "out"))
        before, after = read_image(source), read_image(tmp_path / "out")
        assert not np.array_equal(after.array, before.array)
        assert np.abs(after.array - before.array).mean() < 5 * 4095 / 255
        words = written(tmp_path / "out" / "IM00").DerivationDescription
        assert "sigma 5.0, range (-1024.0, 3071.0)" in words
        again = untouched(tmp_path / "out")
        code, report, _ = self.run(capsys, *command)
        assert (code, report["files"][0]["status"]) == (0, "skipped")
        code, report, _ = self.run(capsys, *command, "--overwrite")
        assert (code, report["files"][0]["status"]) == (0, "denoised")
        assert untouched(tmp_path / "out") == again

    def test_several_series_and_files(self, tmp_path, capsys):
        sources = [series(tmp_path / name, 1) for name in ("a", "b")]
        shutil.copy(sample("MR_small.dcm"), tmp_path / "c.dcm")
        options = ("-o", tmp_path / "out", "--sigma", "5", "--data-range", "-1024", "3071")
        code, _, _ = self.run(capsys, *sources, tmp_path / "c.dcm", *options)
        assert code == 0
        assert [path.relative_to(tmp_path / "out").as_posix() for path in sorted((tmp_path / "out").rglob("*"))] == [
            "a", "a/IM00", "b", "b/IM00", "c.dcm",
        ]  # fmt: skip

    def test_what_it_refuses(self, tmp_path, capsys):
        source = series(tmp_path / "in", 1)
        before = untouched(source)
        code, report, err = self.run(capsys, source, "-o", tmp_path / "out", "--sigma", "5")
        assert code == 1
        assert "black and white are not known; pass --data-range R" in err
        assert report["files"][0]["status"] == "failed"
        for target in (source, source / "out", source / "out.tif"):
            code, _, err = self.run(capsys, source, "-o", target, "--sigma", "5", "--data-range", "0", "255")
            assert code == 2
            assert "is an input" in err or "lies in the folder of the DICOM input" in err
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "mine").write_text("kept")
        code, _, err = self.run(
            capsys, source, "-o", tmp_path / "full", "--sigma", "5", "--data-range", "-1024", "3071", "--overwrite"
        )
        assert code == 1
        assert "holds mine, which is not of this result" in err
        assert untouched(source) == before

    def test_a_stack_in_another_format(self, tmp_path, capsys):
        source = series(tmp_path / "in", 2)
        code, report, _ = self.run(
            capsys, source, "-o", tmp_path / "a.tif", "--sigma", "5", "--data-range", "-1024", "3071"
        )
        assert (code, report["lost"]) == (0, ["DICOM tags"])
        assert read_image(tmp_path / "a.tif").array.shape == (2, SIDE, SIDE)
