"""``python -m nanogpkant``: the command line, where torchrun and its like start a module."""

import sys

from nanogpkant.cli import main

if __name__ == "__main__":
    sys.exit(main())
