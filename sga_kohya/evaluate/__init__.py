"""The paper's evaluation protocol (section 4.3-4.5 of arXiv:2603.10785), with an interval on every number."""
