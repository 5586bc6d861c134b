"""What finds slices, one file each. `sga_kohya.hsd.detect` is the interface and loads the one that is named."""
