"""``python -m mask2kan``: see ``mask2kan.cli.main``."""

import sys

from mask2kan.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
