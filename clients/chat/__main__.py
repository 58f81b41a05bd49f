"""`python -m flexquant.clients.chat`: the same as `flexquant-chat`."""

import sys

from flexquant.clients.chat.command import main

sys.exit(main())
