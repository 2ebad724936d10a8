"""``python -m edge_dac``."""

import sys

from edge_dac.cli.main import main

sys.exit(main())
