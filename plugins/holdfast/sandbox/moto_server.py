"""moto's server without a log line per request: agents ask several times a second."""

from __future__ import annotations

import logging
import sys


def main() -> None:
    """Run moto's server with its own arguments, e.g. ``-H 127.0.0.1 -p 5000``."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    from moto.server import main as serve

    serve(sys.argv[1:])


if __name__ == "__main__":
    main()
