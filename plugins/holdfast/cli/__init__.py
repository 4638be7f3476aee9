"""The command line."""

from holdfast.cli.start import load_arrow

load_arrow()
