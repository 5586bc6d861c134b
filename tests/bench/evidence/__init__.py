"""The study of the papers' claims on a toy: `python -m tests.bench.evidence OUT --size cpu`. See README in examples."""
