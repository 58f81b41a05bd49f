"""`python -m flexquant.ensemble_builder`: the same as `flexquant-build`."""

import sys

from flexquant.ensemble_builder.cli import main

sys.exit(main())
