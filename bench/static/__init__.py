"""Static figures of the CUDA kernels, from the emulator and the oracle of tests/: python -m bench.static.cuda."""

import sys

from bench import ROOT

ROOMS = [str(ROOT / "tests" / room) for room in ("", "support", "cuda")]
sys.path[:0] = [room for room in ROOMS if room not in sys.path]  # whose modules import each other by their bare names
