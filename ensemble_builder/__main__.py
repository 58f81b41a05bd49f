"""`python -m flexquant.ensemble_builder`: the same as `flexquant-build`, and how the daemon builds a model."""

import sys

from flexquant.engine.parent_process import end_with_parent
from flexquant.ensemble_builder.cli import main

end_with_parent()
sys.exit(main())
