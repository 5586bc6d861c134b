"""For test_spherical.py: `python -m sga_kohya.spherical` on the tiny stack. Arguments: the checkout, then its own."""

import os
import sys
from pathlib import Path

folder = Path(__file__).parent
sys.path.insert(0, str(folder))
import run  # noqa: E402

os.environ.update(run.OFFLINE)
checkout, *arguments = sys.argv[1:]
sys.path[:] = [checkout, *sys.path[2:], str(folder.parents[1])]
run.load_stack("flux_train_network.py").shrink_host()

from sga_kohya.spherical.__main__ import main  # noqa: E402  # after the host's sizes are the tiny ones

sys.exit(main(arguments))
