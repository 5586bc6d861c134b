"""Door to musubi-tuner, the second host: python -m sga_kohya.musubi SCRIPT …"""

from sga_kohya.hosts.musubi.run import main

if __name__ == "__main__":
    main()
