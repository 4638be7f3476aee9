"""From a site's compute connection to its service's SDK client, through the providers' own hooks."""

from __future__ import annotations

import importlib
from typing import Any

from holdfast.engine.config import Site

#: Per kind the hook module beside this one, and its function of a site's name and the site.
_CLIENTS = {
    "kubernetes": ("kubernetes", "kubernetes_client"),
    "sagemaker": ("sagemaker", "sagemaker_client"),
    "vertex": ("vertex", "vertex_client"),
    "azure-container-instances": ("azure_compute", "container_instances_client"),
    "azure-batch": ("azure_compute", "batch_client"),
    "azure-ml": ("azure_compute", "ml_client"),
}


def compute_client(site_name: str, site: Site) -> Any:
    """The SDK client of the service that runs a site's training jobs, logged in as its connection says.

    :param site_name: the site's name in the topology, for messages.
    :param site: the site; its ``compute.connection``, else its own, is the login.
    :raises ConfigError: the connection is missing or does not fit the service.
    """
    module, name = _CLIENTS[site.compute.kind]
    return getattr(importlib.import_module(f"holdfast.hooks.{module}"), name)(site_name, site)
