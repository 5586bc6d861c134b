"""Door to musubi-tuner, the second host: python -m sga_kohya.musubi SCRIPT …"""

import sys

from sga_kohya.hosts.musubi.run import main

if __name__ == "__main__":
    sys.exit(main())
