"""One script of the real musubi-tuner with a tiny model, as a process of its own: a study starts such.

python tests/musubi/one.py SRC STACK door SCRIPT WORDS…       our door
python tests/musubi/one.py SRC STACK script [X.py] WORDS…     one of its other scripts, by default the one that draws
"""

import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    from tests.musubi import tiny
    from tests.musubi.stacks import STACKS

    source, stack, kind, *words = sys.argv[1:]
    tiny.prepare(Path(source))
    STACKS[stack].shrink()
    if kind == "door":
        from sga_kohya.hosts.musubi.run import main as door

        door([words[0], "--musubi_tuner", str(Path(source).parent), *words[1:]])
        return
    name = words.pop(0).removesuffix(".py") if words[0].endswith(".py") else f"{stack}_generate_image"
    sys.argv = [f"{name}.py", *words]
    importlib.import_module(f"musubi_tuner.{name}").main()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
