"""``python -m edge_dacd``."""

import sys

from edge_dacd.main import main

sys.exit(main())
