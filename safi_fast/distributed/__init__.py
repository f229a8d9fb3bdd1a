"""Arrays larger than memory and folders of many files, by one process or by the workers of Dask.

    from safi_fast.distributed import denoise_array, local_cluster, process_files

denoise_array     a Dask array lazily; a Zarr array block by block into another, resumable
denoise_volume    a Zarr array or an OME-Zarr image by its path
process_files     many image files
local_cluster     workers of this machine, each with its share of the threads, or one for each GPU
slurm_options     the same for jobs of SLURM

Needs `pip install "dask[array]" distributed zarr`; without workers, `process_files` needs nothing more than safi_fast,
and for URLs fsspec.
"""

from .arrays import denoise_array
from .files import FileRecord, process_files
from .multiscale import denoise_volume
from .workers import local_cluster, slurm_options

__all__ = ["FileRecord", "denoise_array", "denoise_volume", "local_cluster", "process_files", "slurm_options"]
