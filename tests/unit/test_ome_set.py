"""An OME-TIFF in several files is read as one, from any file that has its description, or refused; never in part."""

import json

import numpy as np
import pytest
import tifffile

from safi_fast.cli.main import main
from safi_fast.errors import ImageFileError, InputError
from safi_fast.io import list_images, read_image, write_image
from safi_fast.io.images import all_files

H, W = 15, 22  # the filters need 13
NAMES = ("a.ome.tif", "b.ome.tif", "c.ome.tif")
SIZES = {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}
PLANES = '<TiffData IFD="0" PlaneCount="6"/>'
VALUES = np.random.default_rng(8).integers(0, 4096, (2, 3, H, W)).astype(np.uint16)


def uuid_of(name):
    return f"urn:uuid:{NAMES.index(name)}"


def write_set(folder, owned=True, short=False):
    """Channels and slices (2, 3), slice z of all channels in file number z, as microscopes write positions of a stage.

    owned: files say their own UUID. short: only the first has the description, the others name that.
    """
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / "whole.ome.tif"
    tifffile.imwrite(whole, VALUES, photometric="minisblack", metadata={"axes": "CZYX", **SIZES})
    text = tifffile.tiffcomment(whole)
    whole.unlink()
    assert text.count(PLANES) == 1
    start = text.index(' UUID="')
    text = text[:start] + text[text.index('"', start + 7) + 1 :]
    text = text.replace(PLANES, "".join(
        f'<TiffData FirstC="{c}" FirstZ="{z}" IFD="{c}" PlaneCount="1"><UUID FileName="{name}">{uuid_of(name)}</UUID>'
        "</TiffData>" for z, name in enumerate(NAMES) for c in range(2)
    ))  # fmt: skip
    for z, name in enumerate(NAMES):
        own = text.replace("<OME ", f'<OME UUID="{uuid_of(name)}" ', 1) if owned else text
        if short and z:
            holder = uuid_of("a.ome.tif")
            own = f'<OME UUID="{uuid_of(name)}"><BinaryOnly MetadataFile="a.ome.tif" UUID="{holder}"/></OME>'
        tifffile.imwrite(folder / name, VALUES[:, z], photometric="minisblack", metadata=None, description=own.encode())


@pytest.mark.parametrize("owned", [True, False])
def test_a_set_is_read_as_one_and_written_as_one(tmp_path, owned):
    write_set(tmp_path, owned)
    for name in NAMES:
        found = read_image(tmp_path / name)
        np.testing.assert_array_equal(found.array, VALUES.reshape(6, H, W))
        assert (found.tags.layout.axes, found.tags.layout.shape) == ("CZ", (2, 3))
        out = tmp_path / "out" / name
        out.parent.mkdir(exist_ok=True)
        assert write_image(out, found.array, found) == ()
        with tifffile.TiffFile(out) as file:  # alone in its folder
            assert (file.series[0].axes, file.series[0].kind) == ("CZYX", "ome")
            np.testing.assert_array_equal(file.asarray(), VALUES)
            pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
            assert {key: pixels[key] for key in SIZES} == SIZES
            assert "UUID" not in file.ome_metadata
        out.unlink()


@pytest.mark.parametrize("owned", [True, False])
def test_a_set_is_denoised_once(tmp_path, capsys, owned):
    """Named by one file, by all, or by the folder: one result, of all planes."""
    write_set(tmp_path / "in", owned)
    steps = ["--sigma", "25", "--model", "safi-gray-fast", "--max-outer", "1", "--max-inner", "1", "--json"]
    every = [str(tmp_path / "in" / name) for name in NAMES]
    for number, inputs in enumerate(([every[0]], every, [str(tmp_path / "in")])):
        out = tmp_path / f"out{number}"
        assert main(["denoise", *inputs, "-o", f"{out}/", *steps]) == 0
        assert len(json.loads(capsys.readouterr().out)["files"]) == 1
        assert [path.name for path in out.iterdir()] == ["a.ome.tif"]
        assert read_image(out / "a.ome.tif").array.shape == (6, H, W)
    assert main(["denoise", every[0], "-o", every[2], *steps]) == 2
    assert "c.ome.tif is an input and would be overwritten" in capsys.readouterr().err


def test_files_without_a_description_name_the_one_that_has_it(tmp_path):
    write_set(tmp_path, short=True)
    np.testing.assert_array_equal(read_image(tmp_path / "a.ome.tif").array, VALUES.reshape(6, H, W))
    with pytest.raises(ImageFileError, match=r"b\.ome\.tif: is one .* which a\.ome\.tif describes; name that file"):
        read_image(tmp_path / "b.ome.tif")
    assert list_images([tmp_path]) == list_images([tmp_path / "b.ome.tif", tmp_path]) == [tmp_path / "a.ome.tif"]
    (tmp_path / "link").symlink_to(tmp_path)
    assert list_images([tmp_path, tmp_path / "link" / "b.ome.tif"]) == [tmp_path / "a.ome.tif"]
    assert all_files([tmp_path / "a.ome.tif"]) == [tmp_path / name for name in NAMES]


def replaced(path, values=lambda planes: planes, text=lambda text: text):
    """The file written anew, with other planes or another description."""
    with tifffile.TiffFile(path) as file:
        planes, words = np.stack([page.asarray() for page in file.pages]), file.ome_metadata
    tifffile.imwrite(path, values(planes), photometric="minisblack", metadata=None, description=text(words).encode())


def test_a_set_that_is_not_whole_is_refused(tmp_path):
    def refused(number, match):
        with pytest.raises(ImageFileError, match=f"a.ome.tif: is one file of a multi-file OME-TIFF, {match}"):
            read_image(tmp_path / str(number) / "a.ome.tif")

    for number in range(7):
        write_set(tmp_path / str(number), owned=number != 5)
    (tmp_path / "0" / "b.ome.tif").unlink()
    refused(0, r"and of its 3 files these are missing: b\.ome\.tif; put")
    assert list_images([tmp_path / "0"]) == [tmp_path / "0" / "a.ome.tif"]  # which says why
    (tmp_path / "1" / "c.ome.tif").write_bytes((tmp_path / "1" / "b.ome.tif").read_bytes())
    refused(1, r"and c\.ome\.tif is another file than .*: it has the UUID urn:uuid:1; expected urn:uuid:2")
    replaced(tmp_path / "2" / "c.ome.tif", lambda values: values[:, 1:])
    refused(2, r"whose planes differ in size, type or orientation: those of c\.ome\.tif from those of a\.ome\.tif")
    cut = tmp_path / "3" / "c.ome.tif"
    cut.write_bytes(cut.read_bytes()[:-20])
    refused(3, r"and c\.ome\.tif is truncated or damaged after page 1")
    (tmp_path / "4" / "b.ome.tif").write_bytes(b"no TIFF")
    refused(4, r"and b\.ome\.tif is no OME-TIFF that can be read")
    (tmp_path / "5" / "a.ome.tif").rename(tmp_path / "5" / "z.ome.tif")
    with pytest.raises(
        ImageFileError, match=r"description names only others: a\.ome\.tif, b\.ome\.tif, c\.ome\.tif; give"
    ):
        read_image(tmp_path / "5" / "z.ome.tif")
    replaced(tmp_path / "6" / "a.ome.tif", text=lambda text: text.replace('"b.ome.tif"', '"../b.ome.tif"'))
    refused(6, r"whose other planes lie in \.\./b\.ome\.tif; expected files of its folder")


def test_a_file_with_too_few_planes_is_refused(tmp_path):
    write_set(tmp_path)
    replaced(tmp_path / "b.ome.tif", lambda values: values[:1])
    with pytest.raises(ImageFileError, match=r"a\.ome\.tif: 1 of the 6 planes that its description lists are missing"):
        read_image(tmp_path / "a.ome.tif")


def test_a_file_that_another_set_names_stays(tmp_path):
    """Of the same name, but not of the set: it is an image of its own."""
    write_set(tmp_path)
    tifffile.imwrite(tmp_path / "c.ome.tif", VALUES[0, 0])
    assert list_images([tmp_path]) == [tmp_path / "a.ome.tif", tmp_path / "c.ome.tif"]


def test_files_of_a_set_are_not_overwritten_by_process_files(tmp_path):
    from safi_fast.distributed import process_files

    write_set(tmp_path / "set")
    other = tmp_path / "b.ome.tif"
    tifffile.imwrite(other, VALUES[0, 0])
    with pytest.raises(InputError, match=r"where b\.ome\.tif is an input and would be overwritten"):
        process_files([other, tmp_path / "set"], tmp_path / "set", 0.1)
