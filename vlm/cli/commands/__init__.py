"""One file for each command; `vlm.cli.main` lists them."""
