"""The server with the recorder around it, started by the session's fixture."""

from __future__ import annotations

import sys

from discovery import Recorder

from holdfast.sandbox.gcs.__main__ import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], wrap=Recorder))
