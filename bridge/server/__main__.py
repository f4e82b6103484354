"""`python -m bridge.server`: the operator's command, if it is not installed."""

import sys

from bridge.server.operator.cli import main

if __name__ == "__main__":
    sys.exit(main())
