"""Damaged files of every format, 500 here and 10,000 by `make fuzz`; and that the fuzzer
itself notices what it should.
"""

import mmap
import time
from dataclasses import replace

import numpy as np
import pytest

from fuzz import bytes as fuzzing
from fuzz.formats import CORPUS, FORMATS
from fuzz.mutate import generator, mutate

COUNT = 500
MEDICAL = {"dicom": "pydicom", "nifti": "nibabel"}
PER_FORMAT = -(-COUNT // len(FORMATS))


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_end_in_a_finite_result_or_one_error_of_ours(name):
    if name == "checkpoint":
        pytest.importorskip("torch", reason="reading checkpoints needs PyTorch (extra 'train')")
    if name in MEDICAL:
        pytest.importorskip(MEDICAL[name], reason=f"reading {name} needs {MEDICAL[name]} (extra 'medical')")
    faults, counts = fuzzing.fuzz(FORMATS[name], range(PER_FORMAT))
    assert not faults
    assert sum(counts.values()) == PER_FORMAT


def test_every_file_of_the_corpus_is_read():
    used = {name for made in FORMATS.values() for name in (*made.files, *((made.beside,) if made.beside else ()))}
    assert used == {path.name for path in CORPUS.iterdir()}


def test_a_seed_gives_the_same_file_again():
    for made in FORMATS.values():
        assert fuzzing.damaged(made, 3) == fuzzing.damaged(made, 3)
        assert len({tuple(fuzzing.damaged(made, seed).values()) for seed in range(8)}) > 4


def test_mutations_change_most_files_and_leave_some_readable():
    data = (CORPUS / "grey.tif").read_bytes()
    made = [mutate(generator(seed, "test"), data, [data]) for seed in range(100)]
    assert sum(one != data for one in made) > 90
    assert len({len(one) for one in made}) > 10


# ----------------------------------------------------------------------------------------------------- what is noticed


def raises(path, seed):
    raise KeyError("a name")


def two_lines(path, seed):
    from safi_fast.errors import ImageFileError

    raise ImageFileError("one\ntwo")


def not_finite(path, seed):
    return np.array([1.0, np.nan])


def warns(path, seed):
    return np.array([1e300]).astype(np.float32)


def leaves_a_file(path, seed):
    path.with_name("left").touch()
    return np.zeros(1)


def asks_for_much(path, seed):
    return np.zeros(1) * np.empty(2 * fuzzing.LARGEST // 8)[:1].size


def hangs(path, seed):
    try:
        time.sleep(60)
    except Exception:  # as readers do that take everything for damage
        return np.zeros(1)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (raises, "raises KeyError: 'a name'"),
        (two_lines, "the message of ImageFileError is not one line"),
        (not_finite, "gives values that are not finite"),
        (warns, "raises RuntimeWarning: overflow"),
        (leaves_a_file, "leaves left"),
        (asks_for_much, "asks for .* MiB of memory"),
        (hangs, "takes more than 1 s"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_faults_are_found(read, message, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzzing, "LIMIT", 1)
    ballast = fuzzing._ballast()
    with np.errstate(all="warn"), pytest.raises(fuzzing.FaultError, match=message):
        fuzzing.check(replace(FORMATS["png"], read=read), 0, tmp_path)
    del ballast


def test_open_files_are_counted(monkeypatch):
    kept = []

    def keeps_open(path, seed):
        kept.append(path.open("rb"))
        return np.zeros(1)

    faults, _ = fuzzing.fuzz(replace(FORMATS["angles"], read=keeps_open), range(3))
    for stream in kept:
        stream.close()
    assert faults == ["--format angles: 3 more open files than before"]


def test_growth_is_steady():
    assert fuzzing.growth_of([5.0, 5.0]) == 0
    assert fuzzing.growth_of([0, 1, 2, 3]) == 3
    assert fuzzing.growth_of([5, 6, 5, 6, 5]) == 0
    assert fuzzing.growth_of([5, 5, 90, 90, 90]) == 0


def test_growth_is_a_fault(monkeypatch):
    kept = []

    def keeps_memory(path, seed):
        kept.append(mmap.mmap(-1, 2**21))  # of the system: memory that was freed before would serve an array
        kept[-1].write(b"1" * 2**21)
        return np.zeros(1)

    monkeypatch.setattr(fuzzing, "GROWTH", 2**25)
    faults, _ = fuzzing.fuzz(replace(FORMATS["angles"], read=keeps_memory), range(100))
    assert len(faults) == 1
    assert faults[0].startswith("--format angles: resident memory grows by ")


def test_unknown_formats_are_named():
    with pytest.raises(SystemExit, match="--format gif: expected one of png, jpeg"):
        fuzzing.chosen("gif")
    assert len(fuzzing.chosen("tiff")) == 8


def test_seeds_are_shared_out():
    spans = fuzzing.seeds_of(100, list(FORMATS.values()))
    assert sorted(seed for span in spans.values() for seed in span) == list(range(100))
