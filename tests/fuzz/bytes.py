"""Reads damaged files: each must end in a result that is finite, or in one error of ours.

    python -m tests.fuzz.bytes                              10,000 files over all formats, two formats at a time
    python -m tests.fuzz.bytes --format tiff --count 2000   formats whose names begin so
    python -m tests.fuzz.bytes --format png --seed 17       one file again, as a failure names it; --keep FILE writes it

What fails: any other exception, a RuntimeWarning, a result that is not finite, a reader that takes more than LIMIT
seconds, memory asked for beyond what such a file can hold, memory or open files that grow from file to file, a file
left behind, a crash.
"""

import argparse
import faulthandler
import gc
import mmap
import os
import resource
import signal
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from .formats import CORPUS, FORMATS
from .mutate import generator, mutate

COUNT = 10_000
LIMIT = 20  # seconds for one file
LARGEST = 400 * 2**20  # bytes that reading one file may add: io/sizes.py allows 64 MiB, and readers copy
GROWTH = 32 * 2**20  # bytes that all files together may add to what is resident, after the first fifth
ROOT = Path(__file__).resolve().parents[2]


class HangError(BaseException):
    """A reader does not end. Not an Exception, so that no reader takes it for damage."""


class FaultError(AssertionError):
    """A file that does not end as it should."""


def damaged(format_, seed):
    """Names and contents of the files of one seed; the first is read."""
    rng = generator(seed, format_.name)
    names = list(format_.contents)
    name = names[rng.integers(len(names))]
    data = format_.contents[name]
    others = [content for key, content in format_.contents.items() if key != name] or [data]
    if format_.beside is None:
        return {f"case{Path(name).suffix}": mutate(rng, data, others)}
    beside = (CORPUS / format_.beside).read_bytes()
    chosen = rng.integers(3)  # this, the other, both
    files = {f"case{Path(name).suffix}": data if chosen == 1 else mutate(rng, data, others)}
    return files | {f"case{Path(format_.beside).suffix}": beside if chosen == 0 else mutate(rng, beside, [beside])}


def check(format_, seed, folder):
    """Read one damaged file. Raises FaultError; returns "read" or "refused"."""
    files = damaged(format_, seed)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    _forget_peak()
    before = {key: _status(key) for key in ("VmPeak", "VmHWM")}
    outcome = "read"
    try:
        with _watched():
            result = format_.read(folder / next(iter(files)), seed)
        if not np.isfinite(result).all():
            raise FaultError("gives values that are not finite")
        del result
    except format_.errors as error:
        outcome = "refused"
        if "\n" in str(error) or not str(error):
            raise FaultError(f"the message of {type(error).__name__} is not one line: {error}") from error
    except HangError as error:
        raise FaultError(f"takes more than {LIMIT} s") from error
    except FaultError:
        raise
    except Exception as error:
        raise FaultError(f"raises {type(error).__name__}: {error}") from error
    asked = max(_status(key) - then for key, then in before.items() if key == "VmHWM" or not format_.lazy)
    if asked > LARGEST:
        raise FaultError(f"asks for {asked / 2**20:.0f} MiB of memory")
    left = sorted(path.name for path in folder.iterdir() if path.name not in files)
    if left:
        raise FaultError(f"leaves {', '.join(left)}")
    for name in files:
        (folder / name).unlink()
    return outcome


def fuzz(format_, seeds, progress=lambda seed: None):
    """Check the files of these seeds. Returns the faults, a sentence each, and how many were read and refused."""
    faults, counts, memory = [], {"read": 0, "refused": 0}, []
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", RuntimeWarning)
        folder = Path(name)
        for path, content in format_.contents.items():  # what is loaded at the first call is no growth
            _read_whole(format_, path, content, folder)
        opened, ballast = _open_files(), _ballast()
        for number, seed in enumerate(seeds):
            progress(seed)
            try:
                counts[check(format_, seed, folder)] += 1
            except FaultError as error:
                faults.append(f"--format {format_.name} --seed {seed}: {error}")
                for path in folder.iterdir():
                    path.unlink()
            if number % 20 == 0:
                gc.collect()
                memory.append(_status("VmRSS"))
        gc.collect()
        del ballast
        if _open_files() > opened:
            faults.append(f"--format {format_.name}: {_open_files() - opened} more open files than before")
    growth = growth_of(memory[len(memory) // 5 :])
    if growth > GROWTH:
        faults.append(f"--format {format_.name}: resident memory grows by {growth / 2**20:.0f} MiB")
    return faults, counts


def growth_of(memory):
    """What these samples, taken at equal steps, rise by if each step rises as the median of them.

    A library that is loaded at its first use, such as a codec, is one high step and no growth.
    """
    if len(memory) < 3:
        return 0.0
    return float(np.median(np.diff(memory)) * (len(memory) - 1))


def _read_whole(format_, name, content, folder):
    """The file as it is in the corpus: must be read."""
    files = [folder / f"case{Path(name).suffix}"]
    files[0].write_bytes(content)
    if format_.beside:
        files.append(files[0].with_suffix(Path(format_.beside).suffix))
        files[1].write_bytes((CORPUS / format_.beside).read_bytes())
    for seed in range(4 if format_.name.startswith("mat") else 1):
        if not np.isfinite(format_.read(files[0], seed)).all():
            raise FaultError(f"{name}, undamaged, gives values that are not finite")
    for path in files:
        path.unlink()


@contextmanager
def _watched():
    """HangError after LIMIT seconds; where that does not get through, all stacks on standard error and the end of the
    process.
    """

    def stop(signum, frame):
        raise HangError

    previous = signal.signal(signal.SIGALRM, stop)
    timer = signal.setitimer(signal.ITIMER_REAL, LIMIT)  # which pytest-timeout uses as well
    faulthandler.dump_traceback_later(3 * LIMIT, exit=True)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        signal.setitimer(signal.ITIMER_REAL, *timer)
        faulthandler.cancel_dump_traceback_later()


def _forget_peak():
    """Sets VmHWM, the most that was resident, to what is."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _status(key):
    """VmRSS, VmSize, VmPeak or VmHWM of this process in bytes; 0 where the system does not tell."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return 1024 * int(text.split(f"{key}:", 1)[1].split()[0])


def _ballast():
    """Address space that fills up what this process once had and gave back, so that the next large request shows in
    VmPeak.
    """
    gap = _status("VmPeak") - _status("VmSize")
    return mmap.mmap(-1, gap) if gap > 0 else None


def _open_files():
    try:
        return len(list(Path("/proc/self/fd").iterdir()))
    except OSError:
        return 0


# -------------------------------------------------------------------------------------------------------- command line


def chosen(prefix):
    """Formats whose names begin with this."""
    found = [format_ for name, format_ in FORMATS.items() if name.startswith(prefix)]
    if not found:
        raise SystemExit(f"--format {prefix}: expected one of {', '.join(FORMATS)}, or how some of them begin")
    return found


def seeds_of(count, formats):
    """Seeds 0, 1, ... of each format, `count` together."""
    return {
        format_: range(count * number // len(formats), count * (number + 1) // len(formats))
        for number, format_ in enumerate(formats)
    }


def _child(format_, seeds):
    """The files of one format, in a process that may crash: its last seed stands in a file."""
    with tempfile.NamedTemporaryFile() as last:
        command = [sys.executable, "-m", "tests.fuzz.bytes", "--format", format_.name, "--last", last.name]
        command += ["--seeds", f"{seeds.start}:{seeds.stop}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        if done.returncode not in (0, 1):
            where = f"--format {format_.name} --seed {last.read().decode() or seeds.start}"
            return f"{where}: the process ended with {done.returncode}\n{done.stderr[-2000:]}", True
    return done.stdout.strip(), bool(done.returncode)


def _run_child(format_, span, last):
    """What `_child` started."""
    faulthandler.enable()
    most = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))
    start, stop = map(int, span.split(":"))

    def note(seed):
        os.pwrite(last.fileno(), b"%-12d" % seed, 0)

    faults, counts = fuzz(format_, range(start, stop), note)
    print(f"{format_.name:18} {counts['read']:6} read, {counts['refused']:6} refused, {len(faults)} faults")
    print(*faults, sep="\n")
    return 1 if faults else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", default="", help="formats whose names begin so (default: all)")
    parser.add_argument("--count", type=int, default=COUNT, help="files, over all formats together")
    parser.add_argument("--seed", type=int, help="this file alone")
    parser.add_argument("--keep", type=Path, help="with --seed: write the damaged file here")
    parser.add_argument("--jobs", type=int, default=2, help="formats at a time")
    parser.add_argument("--seeds", help=argparse.SUPPRESS)
    parser.add_argument("--last", type=argparse.FileType("wb", 0), help=argparse.SUPPRESS)
    args = parser.parse_args()
    formats = chosen(args.format)
    if args.seeds:
        return _run_child(FORMATS[args.format], args.seeds, args.last)
    if args.seed is not None:
        return _again(formats, args.seed, args.keep)
    with ThreadPoolExecutor(args.jobs) as pool:
        made = [pool.submit(_child, *part) for part in seeds_of(args.count, formats).items()]
        failed = 0
        for future in made:
            text, wrong = future.result()
            print(text, flush=True)
            failed += wrong
    return 1 if failed else 0


def _again(formats, seed, keep):
    for format_ in formats:
        if keep:
            for name, content in damaged(format_, seed).items():
                keep.with_suffix(Path(name).suffix).write_bytes(content)
        faults, counts = fuzz(format_, [seed])
        print(f"{format_.name}, seed {seed}: {faults[0] if faults else next(key for key in counts if counts[key])}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
