"""Container groups as their REST documentation tells of them: a PUT is answered at once, provisioning goes on."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from azure_stub import Answer, Wrong, arm_error, check_attribute_map

_GROUP = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<resource_group>[^/]+)"
    r"/providers/Microsoft\.ContainerInstance/containerGroups/(?P<name>[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)"
    r"(?P<rest>/stop|/containers/[^/]+/logs)?"
)


@dataclass
class ContainerGroups:
    """One resource group. ``provisioning`` is walked by one step per look; the last one stays."""

    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    provisioning: tuple[str, ...] = ("Pending", "Creating", "Succeeded")
    resource_group: str = "training"
    #: How many seconds… not at all: whether the container obeys SIGTERM, and with which code.
    code_on_stop: int = 75
    updates: int = 0

    def __call__(self, method: str, path: str, query: dict[str, str], body: Any) -> Answer:
        found = _GROUP.fullmatch(path)
        if found is None or query.get("api-version") != "2023-05-01":
            return arm_error(400, "InvalidRequestUri", path)
        if found["resource_group"] != self.resource_group:
            return arm_error(404, "ResourceGroupNotFound", "Resource group could not be found.")
        name = found["name"]
        if method == "PUT" and not found["rest"]:
            return self._put(name, path, body)
        if name not in self.groups:
            return arm_error(404, "ResourceNotFound", f"The Resource '{name}' was not found.")
        if method == "GET" and not found["rest"]:
            return self._get(name)
        if method == "POST" and found["rest"] == "/stop":
            self._stop(name)
            return Answer(204)
        if method == "GET" and query.get("tail", "").isdecimal():
            return Answer(200, {"content": "step 1\nstep 2\n"})
        return arm_error(405, "MethodNotAllowed", method)

    # What a test does to a group in the place of the service. ------------------------------------------------------

    def run(self, name: str) -> None:
        self._state(name, {"state": "Running", "detailStatus": ""}, "Running")

    def exit(self, name: str, code: int, detail: str = "Error") -> None:
        ended = {"state": "Terminated", "exitCode": code, "detailStatus": detail}
        self._state(name, ended, "Succeeded" if code == 0 else "Failed")

    def fail_provisioning(self, name: str, event: str, message: str) -> None:
        properties = self.groups[name]["properties"]
        properties["provisioningState"] = "Failed"
        properties["instanceView"] = {
            "state": "Failed",
            "events": [{"name": event, "message": message, "type": "Warning", "count": 1}],
        }

    def evict(self, name: str) -> None:
        self.groups[name]["properties"]["instanceView"] = {"state": "Stopped", "events": []}
        self.groups[name]["properties"]["containers"][0]["properties"].pop("instanceView", None)

    # -----------------------------------------------------------------------------------------------------------

    def _put(self, name: str, path: str, body: Any) -> Answer:
        from azure.mgmt.containerinstance import models

        check_attribute_map(models, "ContainerGroup", body)
        _check_values(body)
        if name in self.groups:
            self.updates += 1
            return Answer(200, self.groups[name])
        self.groups[name] = {**body, "id": path, "name": name, "type": "Microsoft.ContainerInstance/containerGroups"}
        self.groups[name]["properties"]["provisioningState"] = self.provisioning[0]
        operation = {"Azure-AsyncOperation": f"http://127.0.0.1{path}/operations/1?api-version=2023-05-01"}
        return Answer(201, self._shown(name), operation)

    def _get(self, name: str) -> Answer:
        shown = self._shown(name)
        properties = self.groups[name]["properties"]
        now = properties["provisioningState"]
        if now in self.provisioning[:-1]:
            properties["provisioningState"] = self.provisioning[self.provisioning.index(now) + 1]
        return Answer(200, shown)

    def _shown(self, name: str) -> dict[str, Any]:
        """As the service shows it: secure values and secret volumes are left out."""
        group = self.groups[name]
        properties = dict(group["properties"])
        properties["volumes"] = [{"name": volume["name"]} for volume in properties.get("volumes", [])]
        containers = []
        for container in properties["containers"]:
            inner = dict(container["properties"])
            inner["environmentVariables"] = [
                {key: value for key, value in variable.items() if key != "secureValue"}
                for variable in inner.get("environmentVariables", [])
            ]
            containers.append({**container, "properties": inner})
        return {**group, "properties": {**properties, "containers": containers}}

    def _stop(self, name: str) -> None:
        self.exit(name, self.code_on_stop)
        self.groups[name]["properties"]["instanceView"]["state"] = "Stopped"

    def _state(self, name: str, current: dict[str, Any], group: str) -> None:
        properties = self.groups[name]["properties"]
        properties["provisioningState"] = "Succeeded"
        properties["instanceView"] = {"state": group, "events": []}
        properties["containers"][0]["properties"]["instanceView"] = {"restartCount": 0, "currentState": current}


def _check_values(body: Any) -> None:
    """What the documentation demands beyond the model: enumerations, and one value per variable."""
    properties = body["properties"]
    if properties.get("restartPolicy") not in (None, "Always", "OnFailure", "Never"):
        raise Wrong("properties.restartPolicy")
    if properties.get("priority") not in (None, "Regular", "Spot"):
        raise Wrong("properties.priority")
    for container in properties["containers"]:
        for variable in container["properties"].get("environmentVariables", []):
            if ("value" in variable) == ("secureValue" in variable):
                raise Wrong(f"{variable['name']}: expected one of value and secureValue")
