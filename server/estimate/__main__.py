"""`python -m flexquant.server.estimate`: the same as `flexquant-estimate`."""

import sys

from flexquant.server.estimate.command import main

sys.exit(main())
