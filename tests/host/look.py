"""Run `python -m sga_kohya.interference` on the tiny stack of a script's family, in a process of its own.

python tests/host/look.py --checkout DIR --script flux_train_network.py -- CONFIG --weights FILE …
"""

import argparse
import importlib.util
import os
import sys
from pathlib import Path


def main() -> None:
    spec = importlib.util.spec_from_file_location("tiny_run", Path(__file__).with_name("run.py"))
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkout", type=Path, required=True)
    parser.add_argument("--script", required=True)
    own, words = runner.split_at_dashes(sys.argv[1:])
    options = parser.parse_args(own)
    os.environ.update(runner.OFFLINE)
    import torch

    torch.set_num_threads(1)
    checkout, repository = options.checkout.resolve(), Path(__file__).resolve().parents[2]
    sys.path[:] = [str(checkout), *sys.path[1:], str(repository)]
    runner.load_stack(options.script).shrink_host()
    from sga_kohya.interference.__main__ import main as look

    look([*words, "--script", options.script, "--sd_scripts", str(checkout)])


if __name__ == "__main__":
    main()
