"""The seams into sd-scripts, one a file. Nothing outside this folder knows anything of sd-scripts' inside."""
