"""python -m augment_gpu"""

import sys

from augment_gpu.cli import main

sys.exit(main())
