"""What a Pod's manifest means to a Docker engine: a container to make, and the status that a kubelet would tell of it.

Part of the test double in pods_api.py.
"""

import re
from typing import Any

UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
QUANTITY = re.compile(rf"(\d+(?:\.\d+)?)({'|'.join(UNITS)})")
SHARED_MEMORY = "/dev/shm"


class Waits(Exception):
    """A kubelet would leave the container waiting, for this reason."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def amount(quantity: Any) -> float:
    """A Kubernetes quantity as a number: bytes, cores or pieces."""
    number, unit = QUANTITY.fullmatch(str(quantity)).groups()
    return float(number) * UNITS[unit]


def unsupported(spec: dict[str, Any]) -> str | None:
    """What the double cannot do of a pod, or nothing."""
    if len(spec["containers"]) != 1 or spec.get("initContainers"):
        return "it runs pods of one container and no initContainers"
    if spec.get("restartPolicy") != "Never":
        return "it never restarts a container: set restartPolicy to Never"
    for volume in spec.get("volumes") or []:
        if not {"emptyDir", "hostPath"} & set(volume):
            return f"of volumes it knows emptyDir and hostPath, which {volume['name']} is not"
    return None


def container_settings(pod: dict[str, Any], secrets: dict[str, dict[str, str]]) -> dict[str, Any]:
    """What `docker.containers.create` is given for a pod, its network aside. Raises Waits."""
    spec = pod["spec"]
    (base,) = spec["containers"]
    limits = (base.get("resources") or {}).get("limits") or {}
    settings: dict[str, Any] = {
        "image": base["image"], "environment": environment(pod, base, secrets), "hostname": spec.get("hostname") or pod["metadata"]["name"],
        **({"entrypoint": base["command"]} if base.get("command") else {}), **({"command": base["args"]} if base.get("args") else {}),
        **({"working_dir": base["workingDir"]} if base.get("workingDir") else {}),
        **confinement(spec.get("securityContext") or {}, base.get("securityContext") or {}), **mounts(spec, base),
    }  # fmt: skip
    if "memory" in limits:
        settings["mem_limit"] = settings["memswap_limit"] = int(amount(limits["memory"]))
    if "cpu" in limits:
        settings["nano_cpus"] = int(amount(limits["cpu"]) * 1e9)
    if int(limits.get("nvidia.com/gpu", 0)):
        settings["device_requests"] = [{"Driver": "nvidia", "Count": int(limits["nvidia.com/gpu"]), "Capabilities": [["gpu"]]}]
    return settings


def environment(pod: dict[str, Any], base: dict[str, Any], secrets: dict[str, dict[str, str]]) -> dict[str, str]:
    """The variables of a container. Raises Waits where a Secret is absent."""
    found: dict[str, str] = {}
    for source in base.get("envFrom") or []:
        found |= secret(source["secretRef"], secrets)
    for one in base.get("env") or []:
        origin = one.get("valueFrom") or {}
        if "secretKeyRef" in origin:
            found[one["name"]] = secret(origin["secretKeyRef"], secrets)[origin["secretKeyRef"]["key"]]
        elif "fieldRef" in origin:
            found[one["name"]] = field(pod, origin["fieldRef"]["fieldPath"])
        else:
            found[one["name"]] = one.get("value", "")
    return found


def secret(reference: dict[str, Any], secrets: dict[str, dict[str, str]]) -> dict[str, str]:
    """What a Secret holds."""
    if reference["name"] not in secrets and not reference.get("optional"):
        raise Waits("CreateContainerConfigError", f'secret "{reference["name"]}" not found')
    return secrets.get(reference["name"], {})


def field(pod: dict[str, Any], path: str) -> str:
    """A field of the pod, such as metadata.annotations['batch.kubernetes.io/job-completion-index']."""
    place, _, key = path.partition("['")
    value: Any = pod
    for part in place.split("."):
        value = value.get(part) or {}
    return str(value.get(key.removesuffix("']"), "") if key else value or "")


def confinement(pod: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """What a container may not do, by the security contexts of its pod and its own. Raises Waits where root is asked for and refused."""
    told = pod | own
    user, group = told.get("runAsUser"), told.get("runAsGroup")
    if told.get("runAsNonRoot") and user == 0:
        raise Waits("CreateContainerConfigError", "container's runAsUser breaks non-root policy")
    return {
        "read_only": bool(own.get("readOnlyRootFilesystem")),
        "cap_drop": (own.get("capabilities") or {}).get("drop") or [],
        "security_opt": ["no-new-privileges"] if own.get("allowPrivilegeEscalation") is False else [],
        "group_add": [str(pod["fsGroup"])] if pod.get("fsGroup") is not None else [],
        **({"user": f"{user}:{group if group is not None else user}"} if user is not None else {}),
    }


def mounts(spec: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Volumes: an emptyDir is memory that everybody may write to, whatever its medium."""
    volumes = {volume["name"]: volume for volume in spec.get("volumes") or []}
    settings: dict[str, Any] = {"tmpfs": {}, "volumes": {}}
    for mount in base.get("volumeMounts") or []:
        volume, path = volumes[mount["name"]], mount["mountPath"]
        if "hostPath" in volume:
            settings["volumes"][volume["hostPath"]["path"]] = {"bind": path, "mode": "ro" if mount.get("readOnly") else "rw"}
            continue
        limit = (volume["emptyDir"] or {}).get("sizeLimit")
        if path == SHARED_MEMORY:
            settings["shm_size"] = int(amount(limit or "64Mi"))
        else:
            settings["tmpfs"][path] = "rw,exec,mode=1777" + (f",size={int(amount(limit))}" if limit else "")
    return settings


def status(pod: dict[str, Any], state: dict[str, Any] | None, waits: Waits | None, address: str = "") -> dict[str, Any]:
    """A pod's status. state: the engine's of the container, None before it is made."""
    (base,) = pod["spec"]["containers"]
    phase, own = told(state, waits)
    told_of = {"name": base["name"], "image": base["image"], "imageID": "", "ready": phase == "Running", "restartCount": 0, "state": own}
    scheduled = {"type": "PodScheduled", "status": "True"}
    return {"phase": phase, "conditions": [scheduled], "containerStatuses": [told_of], "podIP": address, "qosClass": "Guaranteed"}


def told(state: dict[str, Any] | None, waits: Waits | None) -> tuple[str, dict[str, Any]]:
    """The phase of a pod, and the state of its container."""
    if waits:
        return "Pending", {"waiting": {"reason": waits.reason, "message": str(waits)}}
    if state is None or state["Status"] == "created":
        return "Pending", {"waiting": {"reason": "ContainerCreating"}}
    began = seconds(state["StartedAt"])
    if state["Running"]:
        return "Running", {"running": {"startedAt": began}}
    code = state["ExitCode"]
    reason = "OOMKilled" if state["OOMKilled"] else "Error" if code else "Completed"
    ended = {"exitCode": code, "reason": reason, "startedAt": began, "finishedAt": seconds(state["FinishedAt"])}
    return "Failed" if code else "Succeeded", {"terminated": ended}


def seconds(moment: str) -> str:
    """The engine's time to the second, as Kubernetes writes it."""
    return f"{moment[:19]}Z"
