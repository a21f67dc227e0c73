"""``python -m MaskSAMCore.cli`` is ``masksam``."""

import sys

from MaskSAMCore.cli import main

if __name__ == "__main__":
    sys.exit(main())
