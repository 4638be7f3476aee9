"""Where a site's training jobs run: a process, Kubernetes, or one of the clouds' managed services."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from holdfast.engine.config.base import Model

Labels = dict[str, str]


class Kubernetes(Model):
    """Jobs of a Kubernetes cluster: EKS, GKE, AKS or any other."""

    namespace: str = "default"
    image: str = Field(description="Image with the trainer and `holdfast` in it.")
    service_account: str | None = Field(None, description="Gives the pod its cloud identity.")
    in_cluster: bool = Field(False, description="Log in with the service account of the worker's own pod.")
    kubeconfig: str | None = Field(None, description="Path of a kubeconfig; default: the connection's own.")
    context: str | None = Field(None, description="Context in the kubeconfig.")
    kueue_queue: str | None = Field(None, description="Kueue LocalQueue; the job is then created suspended.")
    node_selector: Labels = Field(default_factory=dict)
    spot_node_selector: Labels = Field(default_factory=dict, description="Added where the placement asks for spot.")
    requests: Labels = Field(default_factory=dict, description="Resource requests, e.g. `cpu: '4'`, `memory: 8Gi`.")
    limits: Labels = Field(default_factory=dict, description="Resource limits, e.g. `nvidia.com/gpu: '1'`.")
    secrets: tuple[str, ...] = Field((), description="Secrets whose entries become environment variables of the pod.")
    active_deadline_seconds: int | None = Field(None, gt=0)


class SageMaker(Model):
    """Training jobs of Amazon SageMaker."""

    image: str
    role_arn: str = Field(description="The role the job runs as.")
    machine: str = Field(description="Instance type, e.g. `ml.m5.xlarge`.")
    output_path: str = Field(description="`s3://…` SageMaker insists on; checkpoints do not go there.")
    volume_gib: int = Field(30, gt=0)
    max_runtime_seconds: int = Field(86_400, gt=0)
    max_wait_seconds: int = Field(172_800, gt=0, description="Spot only: runtime and waiting together.")
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()


class Vertex(Model):
    """Custom jobs of Vertex AI."""

    project: str
    image: str
    machine: str = Field(description="Machine type, e.g. `n1-standard-4`.")
    service_account: str | None = None
    staging_bucket: str | None = None
    accelerator: str | None = Field(None, description="Accelerator type, e.g. `NVIDIA_TESLA_T4`.")
    accelerators: int = Field(0, ge=0)
    timeout_seconds: int = Field(86_400, gt=0)
    network: str | None = None


class AzureContainerInstances(Model):
    """Container groups of Azure Container Instances."""

    subscription: str
    resource_group: str
    image: str
    cpus: float = Field(1.0, gt=0)
    memory_gib: float = Field(1.5, gt=0)
    identity: str | None = Field(None, description="Resource id of a user-assigned managed identity.")


class AzureBatch(Model):
    """Tasks of an Azure Batch pool."""

    account_url: str = Field(description="`https://<account>.<region>.batch.azure.com`.")
    pool: str
    job: str = Field("holdfast", description="The Batch job the tasks are added to; made when it is not there.")
    image: str | None = Field(None, description="Container image; none: the command runs on the node itself.")


class AzureML(Model):
    """Command jobs of an Azure Machine Learning workspace."""

    subscription: str
    resource_group: str
    workspace: str
    image: str = Field(description="Image with the trainer and `holdfast` in it.")
    working_folder: str | None = Field(
        None, description="Folder of the image the command starts in; none: an empty one that Azure ML makes."
    )
    compute: str | None = Field(None, description="Compute cluster; none: serverless compute.")
    spot_compute: str | None = Field(
        None, description="Cluster of low-priority machines for placements that ask for spot; serverless needs none."
    )
    machine: str | None = Field(None, description="VM size on serverless compute; none: Azure ML chooses.")
    identity: str | None = Field(
        None, description="Client id of a user-assigned managed identity of the cluster or, serverless, the workspace."
    )
    experiment: str = Field("holdfast", description="Experiment the jobs are shown under.")
    timeout_seconds: int = Field(86_400, gt=0, description="After it Azure ML cancels the attempt.")

    @model_validator(mode="after")
    def _machine_is_serverless(self) -> Self:
        if self.machine is not None and self.compute is not None:
            raise ValueError(
                f"a cluster has its own machines: expected `machine` or `compute`; "
                f"found machine {self.machine} and compute {self.compute}"
            )
        return self


class Compute(Model):
    """Where a site's training jobs run."""

    kind: Literal[
        "process", "kubernetes", "sagemaker", "vertex", "azure-container-instances", "azure-batch", "azure-ml"
    ] = Field("process", description="`process`: its own process group on the worker's machine.")
    connection: str | None = Field(
        None, description="Airflow connection of the compute service; default: the site's own connection."
    )
    queue: str | None = Field(
        None,
        description="Airflow queue of the workers in this site; shards of a sync go there.",
    )
    environment_file: str | None = Field(
        None,
        description="KEY=VALUE lines every job at this site gets: the site's own view of the network and credentials.",
    )
    state_folder: str | None = Field(
        None,
        description="Where job handles, heartbeats and logs lie on the worker; default `$HOLDFAST_STATE/jobs`.",
    )
    kubernetes: Kubernetes | None = None
    sagemaker: SageMaker | None = None
    vertex: Vertex | None = None
    azure_container_instances: AzureContainerInstances | None = None
    azure_batch: AzureBatch | None = None
    azure_ml: AzureML | None = None

    @model_validator(mode="after")
    def _has_its_settings(self) -> Self:
        own = self.kind.replace("-", "_")
        if own != "process" and getattr(self, own) is None:
            raise ValueError(f"kind {self.kind} needs its settings: expected the section `{own}`; found none")
        return self


class Placement(Model):
    """One place a job may run at; the first that has room is taken."""

    site: Annotated[str | None, Field(description="Only at this site; none: at whichever is active.")] = None
    machine: str | None = Field(None, description="Machine or instance type; none: what the site's compute names.")
    spot: bool = Field(False, description="Spare capacity that may be taken away.")
    wait_seconds: float | None = Field(
        None,
        gt=0,
        description="How long a job may wait here for a machine before the next placement is asked; none: any time.",
    )
    price_per_hour: float | None = Field(None, ge=0, description="For estimates, in the group's currency.")
