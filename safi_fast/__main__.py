"""`python -m safi_fast` is the command `safi-fast`, where scripts are not on the path."""

from .cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
