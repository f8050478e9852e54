"""Run the checks."""

import sys

from experiments.gpu_check.checks import main

sys.exit(main())
