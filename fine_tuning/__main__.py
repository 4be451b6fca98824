# PYTHON_ARGCOMPLETE_OK
import sys

from fine_tuning.cli.main import main

sys.exit(main())
