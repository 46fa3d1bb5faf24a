"""`python -m hilserl COMMAND` is `hilserl COMMAND`."""

import sys

from hilserl.cli import main

sys.exit(main())
