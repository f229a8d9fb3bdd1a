"""Packaging: `kernels/` and `bindings/` install inside `safi_fast`, so site-packages gets one name (docs/adr/0001)."""

from setuptools import find_packages, setup

SUBPACKAGES = {"safi_fast.kernels": "kernels", "safi_fast.bindings": "bindings"}


def packages() -> list[str]:
    """Every package by the name under which it is imported."""
    names = find_packages(include=["safi_fast", "safi_fast.*"])
    for name, folder in SUBPACKAGES.items():
        names += [name, *(f"{name}.{sub}" for sub in find_packages(folder))]
    return names


setup(packages=packages(), package_dir={"": ".", **SUBPACKAGES})
