"""Granularity without crops (Appendix 0.A.3 of arXiv:2603.10785): any rule that puts every image of a dataset into one
group is a valid partition. Labels the images of an existing kohya dataset and writes only a TOML and a manifest."""
