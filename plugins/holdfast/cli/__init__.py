"""The command line."""

from holdfast.cli.start import few_arenas, few_collections, load_arrow

few_collections()
few_arenas()
load_arrow()
