"""What has to be settled before Numba and the kernels are imported."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

KERNELS = Path(__file__).resolve().parent.parent / "kernels" / "cpu"  # beside bindings/, in a checkout and installed
STAMP = "sources.sha256"


def discard_stale_kernels(folder: Path | None = None) -> None:
    """Delete compiled kernels that were made from other sources.

    Numba looks at the file of a kernel alone, not at those it imports: after an update of a checkout it would run old code without a
    sign. A stamp with the hash of all sources lies beside the compiled kernels; where it cannot be written, nothing is done.
    """
    folder = KERNELS if folder is None else folder
    compiled = folder / "__pycache__"
    sources = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))).hexdigest()
    stamp = compiled / STAMP
    with suppress(OSError):
        if stamp.is_file() and stamp.read_text() == sources:
            return
        compiled.mkdir(exist_ok=True)
        for pattern in ("*.nbi", "*.nbc"):
            for path in compiled.glob(pattern):
                path.unlink(missing_ok=True)
        stamp.write_text(sources)


def let_threads_sleep() -> None:
    """Ask OpenMP, if it is not running yet, to let waiting threads sleep instead of spin.

    Spinning threads take the cores from those that have work as soon as anything else runs. A setting of the user's own stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
