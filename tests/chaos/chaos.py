"""Kills, full disks and company, with the real solver: `make chaos` (minutes), its result in bench/results/chaos.json.

One process loads the library and is copied for each run (fork), so that a run takes a second and not the start-up of
Python. Moments of kills are drawn by a seed, evenly over the time that a run takes, which is followed as the machine
gets busy or idle. What needs a file system of its own (full, read-only) mounts a small tmpfs, and is left out with a
sentence where that is not allowed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("NUMBA_NUM_THREADS", "1")
os.environ["NUMBA_THREADING_LAYER"] = "workqueue"  # which survives a fork
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
IMAGES, SHARED, SLICES = 20, 40, 8
PATIENCE = 120  # seconds that a run may take
DENOISE = ("--sigma", "25", "--model", "safi-gray-fast", "--schedule", "unrolled", "--max-outer", "1", "--max-inner")
STEPS, SHARED_STEPS = (
    12,
    60,
)  # inner steps; more where processes should meet in spite of the seconds that they take to start
RECONSTRUCT = (
    "--no-order-check",
    "--strength",
    "1e-3",
    "--layout",
    "shw",
    "--model",
    "safi-gray-fast",
    "--max-outer",
    "1",
    "--max-iter",
    "5",
)


class BrokenRuleError(Exception):
    """What chaos has brought to light."""


# ------------------------------------------------------------------------------------------------ runs


def start(arguments: list[str], log: Path) -> int:
    """A copy of this process that runs a command, its streams in `log`; its process number."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        from safi_fast.cli.main import main

        status = main(arguments)
    except KeyboardInterrupt:
        status = 130
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(status)


def finish(pid: int) -> int:
    """The exit status, or minus the number of the signal that ended it."""
    until = time.monotonic() + PATIENCE
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise BrokenRuleError(f"a run took more than {PATIENCE} s")
        time.sleep(0.001)


def run(arguments: list[str], log: Path) -> int:
    """A run that nothing disturbs."""
    return finish(start(arguments, log))


def interrupted(arguments: list[str], log: Path, seconds: float, number: signal.Signals) -> int:
    """A run that gets a signal after so many seconds; its status."""
    pid = start(arguments, log)
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    return finish(pid)


# ------------------------------------------------------------------------------------------------ what must hold


def content(folder: Path) -> dict[str, bytes]:
    """All files of a folder, hidden ones too."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def hidden(folder: Path, suffix: str = "") -> list[str]:
    if not folder.is_dir():
        return []
    return [path.name for path in folder.iterdir() if path.name.startswith(".") and path.name.endswith(suffix)]


def visible(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name[0] != "."] if folder.is_dir() else []


def claims_of(pid: int, folder: Path) -> int:
    """How many outputs a process has claimed."""
    found = 0
    for name in hidden(folder, ".lock"):
        with contextlib.suppress(FileNotFoundError):
            found += f".{pid}." in (folder / name).read_text()
    return found


def require(condition: bool, what: str, log: Path | None = None) -> None:
    if not condition:
        raise BrokenRuleError(what + (f"; the run said:\n{log.read_text()}" if log and log.exists() else ""))


def require_whole(out: Path, reference: dict[str, bytes], what: str) -> None:
    """All outputs, bit for bit, and nothing else."""
    found = content(out)
    missing, strange = sorted(reference.keys() - found.keys()), sorted(found.keys() - reference.keys())
    wrong = [name for name in reference.keys() & found.keys() if found[name] != reference[name]]
    require(not (missing or strange or wrong), f"{what}: missing {missing}, left over {strange}, different {wrong}")


def require_part(out: Path, reference: dict[str, bytes], what: str) -> None:
    """Some of the outputs, each whole, whatever else is there."""
    wrong = [name for name, data in content(out).items() if name in reference and data != reference[name]]
    require(not wrong, f"{what}: not whole: {wrong}")


# ------------------------------------------------------------------------------------------------ scenarios


class Chaos:
    """A folder to work in, inputs, and the outputs of runs that nothing disturbed."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.random = folder, random.Random(seed)
        self.log = folder / "log.txt"
        rng = np.random.default_rng(seed)
        self.images = self.make_images("images", IMAGES, rng)
        self.many = self.make_images("many", SHARED, rng)
        kspace = rng.standard_normal((SLICES, 24, 24)) + 1j * rng.standard_normal((SLICES, 24, 24))
        np.save(folder / "kspace.npy", kspace.astype(np.complex64))
        self.commands = {"denoise": self.denoise, "reconstruct": self.reconstruct}
        self.references: dict[str, dict[str, bytes]] = {}
        self.seconds: dict[str, float] = {}

    def make_images(self, name: str, count: int, rng: np.random.Generator) -> Path:
        made = self.folder / name
        made.mkdir()
        for number in range(count):
            side = int(rng.integers(16, 25))
            Image.fromarray(rng.integers(0, 256, (side, 24), dtype=np.uint8)).save(made / f"{number:02d}.png")
        return made

    def denoise(self, out: Path) -> list[str]:
        return ["denoise", str(self.images), "-o", str(out), *DENOISE, str(STEPS)]

    def denoise_many(self, out: Path) -> list[str]:
        return ["denoise", str(self.many), "-o", str(out), *DENOISE, str(SHARED_STEPS)]

    def reconstruct(self, out: Path) -> list[str]:
        return ["reconstruct", "mri", str(self.folder / "kspace.npy"), "-o", f"{out}/", *RECONSTRUCT]

    def prepare(self) -> None:
        """Load and compile all that runs need, in this process; outputs to compare with, and how long a run takes."""
        from safi_fast.cli.main import main

        for name, command in self.commands.items():
            require(main(command(self.folder / f"warm-up-{name}")) == 0, f"{name} fails undisturbed")
            out = self.folder / f"reference-{name}"
            begun = time.monotonic()
            require(run(command(out), self.log) == 0, f"{name} fails undisturbed", self.log)
            self.seconds[name] = time.monotonic() - begun
            self.references[name] = content(out)
        out = self.folder / "reference-many"
        require(run(self.denoise_many(out), self.log) == 0, "denoise fails undisturbed", self.log)
        self.references["many"] = content(out)

    def kills(self, count: int) -> dict[str, object]:
        """Runs that are killed and gone on with until all outputs are there, again and again."""
        found = {"kills": 0, "kills_that_left_a_claim": 0, "kills_that_left_a_scratch_file": 0, "folders_completed": 0}
        while found["kills"] < count:
            name = ("denoise", "reconstruct")[found["folders_completed"] % 2]
            out = self.folder / f"kills-{found['folders_completed']}"
            arguments, reference = self.commands[name](out), self.references[name]
            while True:
                before = len(visible(out))
                if found["kills"] >= count:
                    status = run(arguments, self.log)
                else:
                    moment = self.random.uniform(0, self.seconds[name])
                    status = interrupted(arguments, self.log, moment, signal.SIGKILL)
                if status != -signal.SIGKILL:
                    break
                found["kills"] += 1
                found["kills_that_left_a_claim"] += bool(hidden(out, ".lock"))
                found["kills_that_left_a_scratch_file"] += bool(hidden(out, ".part"))
                self.seconds[name] *= 1.2 if len(visible(out)) == before else 1
                if out.is_dir():
                    require_part(out, reference, f"after kill {found['kills']} of {name}")
            self.seconds[name] *= 0.8
            require(status == 0, f"a resumed run of {name} ended with {status}", self.log)
            require_whole(out, reference, f"{name} after kills")
            found["folders_completed"] += 1
            shutil.rmtree(out)
        return found

    def interruptions(self, count: int) -> dict[str, object]:
        """Ctrl-C and SIGTERM: nothing may be left that a run has not finished."""
        ended = {130: 0, 143: 0, 0: 0, -signal.SIGINT: 0, -signal.SIGTERM: 0}
        for turn in range(count):
            name = ("denoise", "reconstruct")[turn // 2 % 2]
            out = self.folder / f"interruptions-{name}"
            number = (signal.SIGINT, signal.SIGTERM)[turn % 2]
            moment = self.random.uniform(0, self.seconds[name])
            status = interrupted(self.commands[name](out), self.log, moment, number)
            require(status in ended, f"{name} ended with {status} after a signal", self.log)
            require("Traceback" not in self.log.read_text(), "a traceback after a signal", self.log)
            ended[status] += 1
            if out.is_dir():
                require(status < 0 or not hidden(out), f"{name} left {hidden(out)} after a signal", self.log)
                require_part(out, self.references[name], f"{name} after a signal")
                if set(content(out)) >= set(self.references[name]):
                    shutil.rmtree(out)
        return {"signals": count, "runs_that_were_interrupted": count - ended[0]}

    def full_disk(self) -> dict[str, object] | str:
        """A disk with room for some of the outputs."""
        out = self.folder / "full"
        with mounted(out, "size=48k") as allowed:
            if not allowed:
                return "not tried: no tmpfs may be mounted here"
            arguments = self.denoise(out)
            status, said = run(arguments, self.log), self.log.read_text()
            require(status == 1, f"on a full disk denoise ended with {status}", self.log)
            require("(no space left on device)" in said and "Traceback" not in said, "on a full disk", self.log)
            require_part(out, self.references["denoise"], "on a full disk")
            require(not hidden(out), f"on a full disk {hidden(out)} are left", self.log)
            written = len(content(out))
            require(0 < written < IMAGES, f"the disk held {written} of {IMAGES} outputs")
            mount("-o", "remount,size=4m", str(out))
            require(run(arguments, self.log) == 0, "after the disk has room again", self.log)
            require_whole(out, self.references["denoise"], "after the disk has room again")
        return {"outputs": IMAGES, "written_before_the_disk_was_full": written}

    def read_only(self) -> dict[str, object] | str:
        """A disk that turns read-only in mid-run."""
        out = self.folder / "read-only"
        with mounted(out, "size=4m") as allowed:
            if not allowed:
                return "not tried: no tmpfs may be mounted here"
            arguments = self.denoise(out)
            pid = start(arguments, self.log)
            until(lambda: len(list(out.glob("*.png"))) > 2)
            until(lambda: mount("-o", "remount,ro", str(out)))
            status, said = finish(pid), self.log.read_text()
            written = len(list(out.glob("*.png")))
            require(status == 1, f"on a read-only disk denoise ended with {status}", self.log)
            require("(read-only file system)" in said and "Traceback" not in said, "on a read-only disk", self.log)
            require_part(out, self.references["denoise"], "on a read-only disk")
            require(run(arguments, self.log) == 1, "a run on a read-only disk", self.log)
            require(
                "the output folder cannot be written" in self.log.read_text(), "a run on a read-only disk", self.log
            )
            mount("-o", "remount,rw", str(out))
            require(run(arguments, self.log) == 0, "after the disk can be written again", self.log)
            require_whole(out, self.references["denoise"], "after the disk can be written again")
        return {"outputs": IMAGES, "written_before_it_turned_read_only": written}

    def vanished_input(self) -> dict[str, object]:
        """An input that is deleted in mid-run."""
        out, last = self.folder / "vanished", self.images / f"{IMAGES - 1:02d}.png"
        data = last.read_bytes()
        pid = start(self.denoise(out), self.log)
        until(lambda: out.is_dir() and any(out.glob("*.png")))
        last.unlink()
        status, said = finish(pid), self.log.read_text()
        last.write_bytes(data)
        require(status == 1, f"without one input denoise ended with {status}", self.log)
        require(f"{last}: no such file" in said and "Traceback" not in said, "without one input", self.log)
        expected = {name: data for name, data in self.references["denoise"].items() if name != last.name}
        require_whole(out, expected, "without one input")
        require(run(self.denoise(out), self.log) == 0, "with the input again", self.log)
        require_whole(out, self.references["denoise"], "with the input again")
        return {"outputs_of_the_other_inputs": len(expected)}

    def together(self, killed: int) -> dict[str, object]:
        """Four processes, started as a user would, on one folder; some of them killed while they
        are making an output.
        """
        out = self.folder / f"together-{killed}"
        command = [sys.executable, "-m", "safi_fast.cli.main", *self.denoise_many(out), "--json"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": str(ROOT)}
        running = [subprocess.Popen(command, **pipes) for _ in range(4)]
        ended: list[subprocess.Popen[str]] = []
        left = 0
        while len(ended) < killed:
            until(lambda: any(claims_of(process.pid, out) for process in running if process not in ended))
            process = next((one for one in running if one not in ended and claims_of(one.pid, out)), None)
            if process is not None:
                process.kill()
                process.communicate()
                require(process.returncode == -signal.SIGKILL, "a process had ended before it was killed")
                left += claims_of(process.pid, out)
                ended.append(process)
        solved: list[str] = []
        by_each = []
        for process in running:
            if process in ended:
                continue
            output, error = process.communicate(timeout=PATIENCE)
            require(process.returncode == 0, f"one of four ended with {process.returncode}: {error}")
            report = json.loads(output)
            mine = [record["input"] for record in report["files"] if record["status"] == "denoised"]
            require(report["failed"] == 0, f"one of four failed: {error}")
            solved += mine
            by_each.append(len(mine))
        require(len(solved) == len(set(solved)), "an image was solved twice")
        require(killed > 0 or len(solved) == SHARED, f"{len(solved)} of {SHARED} images were solved")
        require_whole(out, self.references["many"], "four processes")
        return {
            "images": SHARED,
            "killed": killed,
            "claims_left_by_the_killed": left,
            "solved_by_each_that_ended_in_order": sorted(by_each),
        }


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[bool]:
    folder.mkdir()
    allowed = mount("-t", "tmpfs", "-o", options, "tmpfs", str(folder))
    try:
        yield allowed
    finally:
        if allowed:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def mount(*arguments: str) -> bool:
    if shutil.which("mount") is None:
        return False
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise BrokenRuleError("a run did not come to the point where it was to be disturbed")
        time.sleep(0.001)


def main() -> int:
    """Run all scenarios; 1 if one of them fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--signals", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    args = parser.parse_args()
    begun = time.monotonic()
    result: dict[str, object] = {"command": "make chaos", "seed": args.seed}
    with tempfile.TemporaryDirectory(prefix="safi-fast-chaos-") as folder:
        chaos = Chaos(Path(folder), args.seed)
        try:
            chaos.prepare()
            print(f"a run takes {chaos.seconds} s", flush=True)
            for name, scenario in {
                "sigkill": lambda: chaos.kills(args.kills),
                "sigint_and_sigterm": lambda: chaos.interruptions(args.signals),
                "full_disk": chaos.full_disk,
                "read_only_disk": chaos.read_only,
                "vanished_input": chaos.vanished_input,
                "four_processes": lambda: chaos.together(0),
                "four_processes_two_killed": lambda: chaos.together(2),
            }.items():
                started = time.monotonic()
                result[name] = scenario()
                print(f"{name}: {result[name]} ({time.monotonic() - started:.1f} s)", flush=True)
        except BrokenRuleError as error:
            print(f"chaos: {error}", file=sys.stderr)
            return 1
    result["seconds"] = round(time.monotonic() - begun, 1)
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
