"""`python -m zoofast`: the same as the command `zoofast`."""

import sys

from zoofast.cli import main

if __name__ == "__main__":
    sys.exit(main())
