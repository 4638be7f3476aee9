"""``python -m holdfast.engine.agent --site SITE``: one site's agent and model service, until SIGTERM."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

import uvicorn

from holdfast.engine.agent.agent import SiteAgent
from holdfast.engine.agent.service import build_app
from holdfast.engine.runtime import Runtime
from holdfast.errors import HoldfastError

PORT_VARIABLE = "HOLDFAST_AGENT_PORT"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the agent. Exit codes: 0 stopped, 2 bad input."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    try:
        agent = SiteAgent(Runtime.from_environment(options.topology), options.site, service=options.service)
    except HoldfastError as error:
        sys.stderr.write(f"holdfast agent: {error}\n")
        return error.exit_code
    agent.start()
    try:
        uvicorn.run(
            build_app(agent),
            host=options.host,
            port=options.port,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=3,
        )
    finally:
        agent.stop()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m holdfast.engine.agent", description=__doc__)
    parser.add_argument("--site", required=True, help="the site this runs at")
    parser.add_argument("--service", help="the service to answer for; default: the only one with an endpoint here")
    parser.add_argument("--topology", help="the topology file; default $HOLDFAST_TOPOLOGY or include/holdfast.yaml")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument(
        "--port",
        type=int,
        default=int(os.environ.get(PORT_VARIABLE, "8080")),
        help=f"port to listen on; default ${PORT_VARIABLE} or 8080",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
