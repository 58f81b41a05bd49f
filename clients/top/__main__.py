"""`python -m flexquant.clients.top`: the same as `flexquant-top`."""

import sys

from flexquant.clients.top.command import main

sys.exit(main())
