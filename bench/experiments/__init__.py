"""Commands, one a module: python -m bench.experiments.NAME."""
