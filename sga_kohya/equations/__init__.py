"""The papers' maths, one idea a file: torch only, no host, no files."""
