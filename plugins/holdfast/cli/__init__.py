"""The command line."""

from holdfast.cli.start import few_arenas, load_arrow

few_arenas()
load_arrow()
