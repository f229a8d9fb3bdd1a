"""Outputs that meet, processes that share a folder, and runs that are killed: nothing is lost, solved twice, or left
behind.

`tests/chaos/chaos.py` (make chaos) is the long form, with the real solver and real kills in numbers.
"""

import ast
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import safi_fast
from safi_fast import atomic, bindings, claims, owners
from safi_fast.atomic import write_atomically
from safi_fast.claims import Claims, clear, holder
from safi_fast.cli import main as cli
from safi_fast.cli import session as sessions
from safi_fast.cli import sharing
from safi_fast.cli.arguments import UsageError
from safi_fast.cli.plan import Output, check_outputs, natural, slice_outputs
from safi_fast.errors import ImageFileError
from safi_fast.io import read_image
from safi_fast.models import load_model
from safi_fast.solver.result import Solution

ROOT = Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(11)
GONE = 2**22 + 1  # a process number that Linux does not give


def hidden(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def python(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def owner(pid=None, host=None, start=None):
    me = owners.new_owner()
    return owners.Owner(host or me.host, pid or me.pid, me.start if start is None else start, me.token)


def leave_lock(target, of, age=0.0):
    """What the process `of` leaves when it is killed while it makes `target`."""
    lock = target.with_name(f".safi-fast.{target.name}.lock")
    lock.write_text(f"{of} elsewhere\n")
    then = time.time() - age
    os.utime(lock, (then, then))
    return lock


# ------------------------------------------------------------------------------------------------ who a process is


def test_an_owner_fits_into_a_name_and_is_read_back():
    one, two = owners.new_owner(), owners.new_owner()
    assert owners.owner_in(str(one)) == one
    assert owners.owner_in(f"{one}.part") == one
    assert one != two
    assert one.is_own()
    assert one.runs()
    for damaged in ("", str(one)[:-3], "x" * 40, f"{one.host}.0.5.{one.token}"):
        assert owners.owner_in(damaged) is None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system does not list when a process began")
def test_a_process_has_ended_if_its_number_is_free_or_given_again_or_it_waits_for_its_parent():
    assert owner(GONE).runs() is False
    assert owner(start=owners.new_owner().start + 1).runs() is False
    assert owner(host="0" * 12).runs() is None
    process = python("print(flush=True)")
    process.stdout.readline()
    found = owners.Owner(owner().host, process.pid, owners._listed(process.pid)[1], owner().token)
    while owners._listed(process.pid)[0] != b"Z":
        time.sleep(0.01)
    assert found.runs() is False
    process.communicate()


def test_where_processes_are_not_listed_a_live_one_is_not_taken_for_dead(monkeypatch):
    monkeypatch.setattr(owners, "_listed", lambda pid: None)
    assert owners.new_owner().start == 0
    assert owners.new_owner().runs() is None
    assert owner(GONE, start=0).runs() is False


# ------------------------------------------------------------------------------------------------ one writer

WRITER = """
import sys
from pathlib import Path
from safi_fast.atomic import write_atomically
for number in range(100):
    write_atomically(Path(sys.argv[1]) / f"{number % 5}.bin", bytes([number % 5]) * 5000)
"""


def test_processes_that_write_the_same_files_do_not_disturb_each_other(tmp_path):
    """They deleted each other's scratch files: 168 of 400 writes failed."""
    together = [python(WRITER, tmp_path) for _ in range(4)]
    assert [(process.communicate()[1], process.returncode) for process in together] == [("", 0)] * 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{number}.bin" for number in range(5)]
    assert all((tmp_path / f"{n}.bin").read_bytes() == bytes([n]) * 5000 for n in range(5))


@pytest.mark.parametrize(
    ("of", "age", "stays"),
    [
        (owner(GONE), 0, False),
        (owner(), 0, True),
        (owner(host="0" * 12), 3600, True),
        (owner(host="0" * 12), 90000, False),
    ],
    ids=["ended", "runs", "other host", "other host, a day ago"],
)
def test_scratch_files_are_removed_when_their_process_has_ended(tmp_path, of, age, stays):
    scratch = tmp_path / f".safi-fast.{of}.part"
    scratch.write_bytes(b"half")
    then = time.time() - age
    os.utime(scratch, (then, then))
    (tmp_path / ".safi-fast.notes.part").touch()  # not ours, and not old
    write_atomically(tmp_path / "a.bin", b"new")
    assert scratch.exists() is stays
    assert (tmp_path / ".safi-fast.notes.part").exists()


def test_a_replaced_file_keeps_its_permissions_and_a_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real" / "a.bin", tmp_path / "b.bin"
    real.write_bytes(b"old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert real.stat().st_mode & 0o777 == 0o640


def test_devices_pipes_and_folders_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ImageFileError, match=r"pipe: cannot be written \(not an ordinary file\)"):
        write_atomically(tmp_path / "pipe", b"new")
    with pytest.raises(ImageFileError, match=r"folder: cannot be written \(is a directory\)"):
        write_atomically(tmp_path / "folder", b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]


def test_a_name_as_long_as_the_system_allows(tmp_path):
    write_atomically(tmp_path / ("a" * 251 + ".bin"), b"new")
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ImageFileError, match=r"cannot be written \(file name too long\)"):
        write_atomically(tmp_path / ("a" * 252 + ".bin"), b"new")


WRITING = {"write_text", "write_bytes", "savez", "savez_compressed", "save_file", "imwrite", "imsave"}


def test_all_files_are_written_by_the_atomic_writer():
    """A new `open(..., "w")` would be torn by a kill, a full disk or a second process."""
    found = []
    folders = [Path(package.__file__).parent for package in (safi_fast, bindings)]  # one in the other once installed
    for path in {path.resolve() for folder in folders for path in folder.rglob("*.py")}:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                modes = [word.value for word in node.args[:2] if isinstance(word, ast.Constant)]
                opens = name == "open" and any(set("wxa+") & set(str(mode)) for mode in modes if len(str(mode)) < 4)
                if opens or name in WRITING:
                    found.append(path.name)
    assert sorted(found) == ["atomic.py", "atomic.py", "claims.py", "tiff_writing.py"]  # the last writes into memory


# ------------------------------------------------------------------------------------------------ claims


def test_one_process_has_an_output_at_a_time(tmp_path):
    target = tmp_path / "a.png"
    with Claims() as one, Claims() as two:
        assert one.take(target)
        assert not one.take(target)
        assert not two.take(target)
        assert not two.take(tmp_path / "A.PNG")  # the same file where case does not count
        assert two.take(tmp_path / "b.png")
        assert holder(target) == f"process {os.getpid()} on {os.uname().nodename}"
        one.release(target)
        assert holder(target) is None
        assert two.take(target)
    assert not list(tmp_path.iterdir())
    assert not one.take(target)  # closed


def test_a_long_name_can_be_claimed(tmp_path):
    with Claims() as mine:
        assert mine.take(tmp_path / ("a" * 251 + ".png"))


@pytest.mark.parametrize(
    ("of", "age", "taken"),
    [
        (owner(GONE), 0, True),
        (owner(start=1), 0, True),
        (owner(), 86400, False),  # stopped, but it runs
        (owner(host="0" * 12), 500, False),
        (owner(host="0" * 12), 700, True),
        ("damaged", 500, False),
        ("damaged", 700, True),
    ],
)
def test_a_claim_is_void_when_its_process_has_ended(tmp_path, of, age, taken):
    target = tmp_path / "a.png"
    lock = leave_lock(target, of, age)
    assert (holder(target) is None) is taken
    with Claims() as mine:
        assert mine.take(target) is taken
        assert (owners.owner_in(lock.read_text()) == of) is (not taken and of != "damaged")
    assert lock.exists() is not taken
    clear(tmp_path)
    assert lock.exists() is not taken


def test_of_two_that_find_a_void_claim_the_slower_does_not_remove_what_the_faster_made(tmp_path, monkeypatch):
    target = tmp_path / "a.png"
    leave_lock(target, owner(GONE))
    judge = claims._is_valid
    with Claims() as faster, Claims() as slower:

        def judged_then_overtaken(path, content):
            valid = judge(path, content)
            monkeypatch.setattr(claims, "_is_valid", judge)
            assert faster.take(target)
            return valid

        monkeypatch.setattr(claims, "_is_valid", judged_then_overtaken)
        assert not slower.take(target)
        assert holder(target)
    assert not list(tmp_path.iterdir())


def test_a_kill_while_a_void_claim_is_removed(tmp_path, monkeypatch):
    """The guard that is left is void as well."""
    target = tmp_path / "a.png"
    leave_lock(target, owner(GONE))
    monkeypatch.setattr(claims, "new_owner", lambda: owner(GONE))
    unlink = Path.unlink

    def killed_here(path, *arguments, **options):
        if path.suffix in (".lock", ".guard"):
            raise KeyboardInterrupt
        unlink(path, *arguments, **options)

    monkeypatch.setattr(Path, "unlink", killed_here)
    with pytest.raises(KeyboardInterrupt), Claims() as killed:
        killed.take(target)
    monkeypatch.undo()
    assert any(name.endswith(".guard") for name in hidden(tmp_path))
    with Claims() as mine:
        assert mine.take(target)
    clear(tmp_path)
    atomic.sweep(tmp_path, own=True)
    assert not list(tmp_path.iterdir())


TAKER = """
import sys, time
from pathlib import Path
from safi_fast.claims import Claims
folder = Path(sys.argv[1])
print(flush=True)
sys.stdin.readline()
with Claims() as claims:
    for number in range(40):
        if claims.take(folder / f"{number}.png"):
            print(number)
    print("done", flush=True)
    sys.stdin.readline()
"""


def test_of_many_that_take_over_at_once_one_succeeds(tmp_path):
    for number in range(40):
        leave_lock(tmp_path / f"{number}.png", owner(GONE))
    command = [sys.executable, "-c", TAKER, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    together = [subprocess.Popen(command, **pipes) for _ in range(4)]
    for step in ("loaded", "start"):
        for process in together:
            process.stdout.readline() if step == "loaded" else (process.stdin.write("\n"), process.stdin.flush())
    taken = []
    for process in together:
        while (line := process.stdout.readline().strip()) != "done":
            taken.append(int(line))
    for process in together:
        process.communicate("\n")
    assert sorted(taken) == sorted(set(taken))
    assert len(taken) == 40
    assert not list(tmp_path.iterdir())


def test_a_claim_that_may_not_be_read_is_another_process_s(tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    target = tmp_path / "a.png"
    leave_lock(target, owner(host="0" * 12))
    monkeypatch.setattr(Path, "read_text", refuse)
    assert holder(target) == "another process"
    with Claims() as mine:
        assert not mine.take(target)


def test_a_claim_is_touched_while_the_work_lasts(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "TOUCH_EVERY", 0.01)
    with Claims() as mine:
        mine.take(tmp_path / "a.png")
        lock = tmp_path / ".safi-fast.a.png.lock"
        os.utime(lock, (0, 0))
        until = time.monotonic() + 30
        while lock.stat().st_mtime == 0 and time.monotonic() < until:
            time.sleep(0.01)
        assert lock.stat().st_mtime > 0


def test_file_systems_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with Claims() as one, Claims() as two:
        assert one.take(tmp_path / "a.png")
        assert not two.take(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------ outputs that meet


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (
            ("o/a.npy", "o/a.npy"),
            "one and two would both be written to o/a.npy; give one of them a run with another -o",
        ),
        (("o/a.npy", "o/A.npy"), r"both be written to o/A.npy \(a.npy where case does not count\)"),
        (("o/\u00e9.npy", "o/e\u0301.npy"), "both be written to"),
        (("o/a.npy", "p/../o/a.npy"), "both be written to"),
        (("o/a.npy", "in.npy"), "in.npy is an input and would be overwritten; choose another output"),
        (("o/a.npy", "o/../in.npy"), "in.npy is an input"),
        (("o/a.npy", "link.npy"), "link.npy is an input"),
        (("o/a.npy", "p/a.npy"), None),
        (("o/a.npy", "IN.npy"), None),  # another file here; on a system that does not tell case it is the input
    ],
)
def test_outputs_that_meet(tmp_path, monkeypatch, outputs, message):
    monkeypatch.chdir(tmp_path)
    for folder in ("o", "p"):
        Path(folder).mkdir()
    Path("in.npy").touch()
    Path("link.npy").symlink_to("in.npy")
    planned = [Output(Path(path), name) for path, name in zip(outputs, ("one", "two"), strict=True)]
    if message is None:
        check_outputs(planned, [Path("in.npy")])
        return
    with pytest.raises(UsageError, match=message):
        check_outputs(planned, [Path("in.npy")])


def test_an_input_under_another_case_of_its_name(tmp_path, monkeypatch):
    (tmp_path / "in.npy").touch()
    monkeypatch.setattr(Path, "samefile", lambda *_: True)  # as on macOS and Windows
    with pytest.raises(UsageError, match=r"IN\.npy is an input"):
        check_outputs([Output(tmp_path / "IN.npy", "one")], [tmp_path / "in.npy"])


def test_only_inputs_that_may_meet_are_read_beforehand():
    asked = []

    def numbers(source):
        asked.append(source.name)
        return range(1, 3), 5

    sources = [Path(name) for name in ("s.npy", "s_001.npy", "t.npy", "S_1.npy")]
    outputs = slice_outputs(Path("out"), sources, ".png", "{}", numbers)
    names = ["s_001.png", "s_002.png", "s_001.png", "t.png", "S_1.png"]
    assert [output.path.name for output in outputs] == names
    assert asked == ["s.npy"]


# ------------------------------------------------------------------------------------------------ reconstruct


class StartIsResult:
    """A solver that gives back what it starts from."""

    model = SimpleNamespace(filters=SimpleNamespace(planes=1))

    def reconstruct(self, measurement, operator, *, return_masks, **_options):
        image = operator.adjoint(measurement)
        masks = np.ones((1, *image.shape), np.float32) if return_masks else None
        return Solution(
            image,
            "converged",
            True,
            1,
            1,
            0.0,
            0.0,
            0.0,
            (SimpleNamespace(relative_gap=0.0, outer_residual=0.0),),
            masks,
        )


@pytest.fixture
def kspaces(tmp_path, monkeypatch):
    """in/s.npy with three slices beside in/s_001.npy with one."""
    monkeypatch.chdir(tmp_path)
    model = load_model()
    monkeypatch.setattr(sessions, "make_session", lambda *_: sessions.Session(model, StartIsResult()))
    Path("in").mkdir()
    image = np.zeros((16, 16))
    image[5:11, 4:12] = 1
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image), norm="ortho")).astype(np.complex64)
    np.save("in/s.npy", np.stack([kspace, 2 * kspace, 3 * kspace]))
    np.save("in/s_001.npy", 4 * kspace[None])


def reconstruct(*arguments):
    tail = ("--layout", "shw", "--strength", "1", "--data-range", "1", "--no-order-check")
    return cli.main(["reconstruct", "mri", *map(str, arguments), *tail])


def test_slices_beside_an_input_named_like_one_of_them(kspaces, capsys):
    """The second was "skipped" because the first had written its output."""
    assert reconstruct("in", "-o", "out") == 2
    error = capsys.readouterr().err
    assert "in/s.npy and in/s_001.npy would both be written to out/s_001.npy; give one of them a run" in error
    assert not Path("out").exists()
    assert reconstruct("in", "-o", "out", "--slices", "0:1") == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["s_000.npy", "s_001.npy"]


def test_results_pictures_and_reports_that_meet(kspaces, capsys):
    Path("in/s_001.npy").unlink()
    png = ("in", "-o", "out", "--format", "png")
    for arguments, message in (
        ((*png, "--plot", "out"), "in/s.npy and the picture of in/s.npy would both be written to out/s.png"),
        (("in/s.npy", "-o", "x.tif", "--report", "x.tif"), "in/s.npy and --report would both be written to x.tif"),
        (("in/s.npy", "-o", "x.cfl", "--report", "x.hdr"), "in/s.npy and --report would both be written to x.hdr"),
    ):
        assert reconstruct(*arguments) == 2
        assert message in capsys.readouterr().err


def test_a_folder_in_the_place_of_an_output_costs_that_output_alone(kspaces, capsys):
    Path("in/s_001.npy").unlink()
    Path("out/s_001.npy").mkdir(parents=True)
    assert reconstruct("in", "-o", "out") == 1
    assert capsys.readouterr().err == (
        "safi-fast: error: in/s.npy: out/s_001.npy: cannot be written (is a directory)\n"
    )
    assert sorted(path.name for path in Path("out").iterdir()) == ["s_000.npy", "s_001.npy", "s_002.npy"]


def test_a_picture_that_cannot_be_written_does_not_cost_the_result(kspaces, capsys):
    Path("pictures/s_001.png").mkdir(parents=True)
    Path("in/s_001.npy").unlink()
    assert reconstruct("in", "-o", "out", "--plot", "pictures") == 1
    assert "pictures/s_001.png: cannot be written (is a directory)" in capsys.readouterr().err
    assert len(list(Path("out").iterdir())) == 3


def test_slices_that_another_process_makes_are_waited_for(kspaces, capsys, monkeypatch):
    Path("in/s_001.npy").unlink()
    assert reconstruct("in", "-o", "reference") == 0
    Path("out").mkdir()
    other, wait = Claims(), sharing.Turns.wait
    other.take(Path("out/s_000.npy"))
    leave_lock(Path("out/s_001.npy"), owner(GONE))
    other.take(Path("out/s_002.npy"))

    def finish_one_fail_the_other(turns, targets):
        assert targets == [Path("out/s_000.npy"), Path("out/s_002.npy")]
        monkeypatch.setattr(sharing.Turns, "wait", wait)
        write_atomically(Path("out/s_000.npy"), Path("reference/s_000.npy").read_bytes())
        other.close()
        return wait(turns, targets)

    monkeypatch.setattr(sharing.Turns, "wait", finish_one_fail_the_other)
    capsys.readouterr()
    assert reconstruct("in", "-o", "out", "--json") == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    statuses = {Path(record["output"]).name: record["status"] for record in report["files"]}
    assert statuses == {"s_000.npy": "skipped", "s_001.npy": "reconstructed", "s_002.npy": "reconstructed"}
    assert report["files"][0]["reason"] == "solved by another process"
    assert captured.err.startswith("safi-fast: waiting for out/s_000.npy and 1 more, which ")
    for number in range(3):
        name = f"s_{number:03d}.npy"
        assert (Path("out") / name).read_bytes() == (Path("reference") / name).read_bytes()
    assert not hidden(Path("out"))


def test_an_input_that_vanishes_while_another_process_is_waited_for(kspaces, capsys, monkeypatch):
    Path("in/s_001.npy").unlink()
    Path("out").mkdir()
    other, wait = Claims(), sharing.Turns.wait
    other.take(Path("out/s_001.npy"))

    def vanish(turns, targets):
        monkeypatch.setattr(sharing.Turns, "wait", wait)
        Path("in/s.npy").unlink()
        other.close()
        return True

    monkeypatch.setattr(sharing.Turns, "wait", vanish)
    assert reconstruct("in", "-o", "out", "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert [record["status"] for record in report["files"]] == ["reconstructed", "failed", "reconstructed"]
    assert report["files"][1]["output"] == "out/s_001.npy"
    assert not hidden(Path("out"))


# ------------------------------------------------------------------------------------------------ denoise

FOLDER_RUN = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from types import SimpleNamespace
import numpy as np
import safi_fast.cli.session as sessions
from safi_fast.cli.main import main
from safi_fast.solver.result import Solution

class Slow:  # as Session, but without the solver, whose import takes a second
    model, others = SimpleNamespace(name="slow", schedule=SimpleNamespace(name="unrolled")), ()

    def check(self, sigma, **options):
        pass

    def model_for(self, *_):
        return self.model

    def denoise(self, image, sigma, **options):
        time.sleep(float(sys.argv[3]))
        return Solution(255 - image.astype(np.float32), "completed", False, 1, 1, 0.0, 0.0, 0.0)

sessions.make_session = lambda *_: Slow()
raise SystemExit(main(["denoise", sys.argv[1], "-o", sys.argv[2], "--sigma", "25", *sys.argv[4:]]))
"""


@pytest.fixture
def images(tmp_path):
    """A folder of 12 images, and what becomes of them."""
    (tmp_path / "in").mkdir()
    expected = {}
    for number in range(12):
        array = RNG.integers(0, 256, (16, 18), dtype=np.uint8)
        np.save(tmp_path / "in" / f"{number:02d}.npy", array)
        expected[f"{number:02d}.npy"] = 255 - array
    return tmp_path / "in", expected


def folder_run(images, out, seconds=0.02, *options):
    return python(FOLDER_RUN, images, out, seconds, *options)


def status_of(process):
    process.communicate(timeout=60)
    return process.returncode


def check(out, expected):
    assert sorted(path.name for path in out.iterdir()) == sorted(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(read_image(out / name).array, array)


def wait_for(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.002)


def test_four_processes_solve_each_image_once(images, tmp_path):
    folder, expected = images
    out = tmp_path / "out"
    together = [folder_run(folder, out, 0.05, "--json") for _ in range(4)]
    reports = []
    for process in together:
        output, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
        reports.append(json.loads(output))
    solved = [record["input"] for report in reports for record in report["files"] if record["status"] == "denoised"]
    assert len(solved) == len(set(solved)) == 12
    assert sum(report["skipped"] for report in reports) == 36
    check(out, expected)


def test_what_another_process_made_since_is_not_overwritten(tmp_path):
    old, new = tmp_path / "old.png", tmp_path / "new.png"
    old.touch()
    os.utime(old, (1, 1))
    with sharing.Turns(overwrite=True) as turns:
        turns.prepare([tmp_path])
        time.sleep(0.02)  # the clock of a file system ticks every few milliseconds
        new.touch()
        assert turns.look(old) is True
        assert turns.take(old) is True
        assert turns.look(old) is False
        for found in (turns.look(new), turns.take(new)):
            assert found.reason == "solved by another process"
    with sharing.Turns(overwrite=False) as turns:
        assert turns.take(new).reason == "the output exists"


def test_a_run_that_is_killed_is_gone_on_with(images, tmp_path):
    folder, expected = images
    out = tmp_path / "out"
    for number in (1, 3, 6):
        process = folder_run(folder, out)
        wait_for(lambda number=number: out.exists() and len(list(out.glob("*.npy"))) >= number)
        process.kill()
        process.communicate()
    assert any(name.endswith(".lock") for name in hidden(out))
    assert status_of(folder_run(folder, out, 0)) == 0
    check(out, expected)


def test_the_next_run_cleans_up_even_if_nothing_is_left_to_do(images, tmp_path):
    folder, expected = images
    out = tmp_path / "out"
    assert status_of(folder_run(folder, out, 0)) == 0
    leave_lock(out / "00.npy", owner(GONE))
    (out / f".safi-fast.{owner(GONE)}.part").touch()
    assert status_of(folder_run(folder, out, 0)) == 0
    check(out, expected)


def test_others_finish_what_a_killed_process_had_begun(images, tmp_path):
    folder, expected = images
    out = tmp_path / "out"
    first = folder_run(folder, out, 30)
    wait_for(lambda: out.exists() and len(hidden(out)) >= 4)
    second = folder_run(folder, out, 0)
    try:
        line = second.stderr.readline()
        assert line.startswith(f"safi-fast: waiting for {out}/00.npy and ")
        assert f" more, which process {first.pid} on " in line
        assert second.poll() is None
    finally:
        first.kill()
        first.communicate()
    output, _ = second.communicate(timeout=60)
    assert output.startswith("12 denoised in ")
    check(out, expected)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_no_claim(images, tmp_path, number):
    folder, _ = images
    out = tmp_path / "out"
    process = folder_run(folder, out, 0.1)
    wait_for(lambda: out.exists() and len(list(out.glob("*.npy"))) >= 1)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert "Traceback" not in error
    assert not hidden(out)


def test_an_input_that_vanishes_costs_that_image_alone(images, tmp_path):
    folder, expected = images
    out = tmp_path / "out"
    process = folder_run(folder, out, 0.1)
    wait_for(lambda: out.exists() and len(list(out.glob("*.npy"))) >= 1)
    (folder / "11.npy").unlink()
    output, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "11 denoised" in output
    assert error == f"safi-fast: error: {folder}/11.npy: no such file\n"
    del expected["11.npy"]
    check(out, expected)


@pytest.mark.parametrize(("number", "words"), [(28, "no space left on device"), (30, "read-only file system")])
def test_a_disk_that_is_full_or_read_only_is_found_before_solving(images, tmp_path, monkeypatch, capsys, number, words):
    folder, _ = images
    out = tmp_path / "out"
    out.mkdir()
    asked = []

    def refuse(*_args):
        raise OSError(number, os.strerror(number))

    class Solver:
        def denoise(self, *args, **options):
            asked.append(args)

    monkeypatch.setattr(sessions, "make_session", lambda *_: sessions.Session(load_model(), Solver()))
    monkeypatch.setattr(os, "link", refuse)
    assert cli.main(["denoise", str(folder), "-o", str(out), "--sigma", "25"]) == 1
    assert f"safi-fast: error: {folder}/00.npy: {out}/00.npy: cannot be written ({words})\n" in capsys.readouterr().err
    assert not asked
    assert not list(out.iterdir())


def test_names_and_folders_that_cannot_be_outputs(images, tmp_path, capsys):
    folder, _ = images
    long = tmp_path / ("a" * 252 + ".npy")
    assert cli.main(["denoise", str(folder / "00.npy"), "-o", str(long), "--sigma", "25"]) == 1
    assert "cannot be written (file name too long)" in capsys.readouterr().err
    out = tmp_path / "out"
    (out / "00.npy").mkdir(parents=True)
    assert (
        cli.main(["denoise", str(folder), "-o", str(out), "--sigma", "25", "--max-outer", "1", "--max-inner", "1"]) == 1
    )
    captured = capsys.readouterr()
    assert captured.err == f"safi-fast: error: {folder}/00.npy: {out}/00.npy: cannot be written (is a directory)\n"
    assert captured.out.startswith("11 denoised")


# ------------------------------------------------------------------------------------------------ training


def test_a_second_training_run_in_a_folder_is_refused(tmp_path, capsys):
    pytest.importorskip("torch", reason="training needs PyTorch (extra 'train')")
    folder, out = tmp_path / "large", tmp_path / "run"
    folder.mkdir()
    np.save(folder / "a.npy", RNG.integers(0, 256, (20, 20), dtype=np.uint8))
    out.mkdir()
    other_images = tmp_path / "others"
    other_images.mkdir()
    np.save(other_images / "b.npy", RNG.integers(0, 256, (20, 20), dtype=np.uint8))
    arguments = [
        "train",
        "--data",
        str(folder),
        "--validation",
        str(other_images),
        "--sigma-range",
        "5",
        "25",
        "--steps",
        "1",
        "--patch",
        "17",
    ]
    with Claims() as other:
        other.take(out / "checkpoint.pt")
        assert cli.main([*arguments, "--out", str(out)]) == 2
    assert f"{out}: process {os.getpid()} on " in capsys.readouterr().err
    assert cli.main([*arguments, "--out", str(folder)]) == 2
    assert "holds images, among which the curve would be" in capsys.readouterr().err


def test_threads_of_one_process_do_not_share_a_claim(tmp_path):
    won = []
    with Claims() as mine:

        def take():
            if mine.take(tmp_path / "a.png"):
                won.append(threading.get_ident())

        together = [threading.Thread(target=take) for _ in range(8)]
        for thread in together:
            thread.start()
        for thread in together:
            thread.join()
    assert len(won) == 1


def test_overwriting_what_seems_to_be_of_tomorrow(tmp_path):
    """A clock that was wrong when an output was written: it is replaced, and nobody else is said to have solved it."""
    target = tmp_path / "a.png"
    target.write_bytes(b"old")
    tomorrow = time.time() + 86400
    os.utime(target, (tomorrow, tomorrow))
    with sharing.Turns(overwrite=True) as turns:
        turns.prepare([tmp_path])
        assert turns.skipped(target) is None
        assert turns.take(target) is True
        turns.let_go(target)
        target.write_bytes(b"made by another")
        assert turns.skipped(target).reason == sharing.BY_OTHERS


def test_nobody_hears_of_waiting(monkeypatch, tmp_path):
    """Standard error may be full or closed: a run waits all the same."""

    class Full:
        def write(self, text):
            raise OSError(28, "No space left on device")

        def flush(self):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    target = tmp_path / "a.png"
    with Claims() as other, sharing.Turns(overwrite=False) as turns:
        assert other.take(target)
        threading.Timer(0.2, lambda: other.release(target)).start()
        assert turns.wait([target])


def test_slices_are_reported_in_their_order():
    names = [f"out/s_{number:03d}.npy" for number in (2, 10, 101, 999, 1000, 1001)]
    assert sorted(sorted(names), key=natural) == names
    assert sorted(["b1", "a10", "a2", "a"], key=natural) == ["a", "a2", "a10", "b1"]


def test_links_to_one_file_are_named_as_such(tmp_path):
    for name in ("a.npy", "r.json"):
        (tmp_path / name).symlink_to("real")
    outputs = [Output(tmp_path / "a.npy", "in.npy"), Output(tmp_path / "r.json", "--report")]
    with pytest.raises(
        UsageError, match=r"would both be written to .*r\.json: .*a\.npy and that are one file through links"
    ):
        check_outputs(outputs, [])
