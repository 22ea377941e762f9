"""Every kubectl command that README, messages, profiles or the guide (with its errors corrected) tell a user to type.

`test_kubectl.py` runs each on a sandbox; `test_told_commands.py` fails when a text holds one that is not here.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

NAMES = {
    "namespace": "llm-d",
    "pod": "<a pod of Pattern 1>",
    "servers": "ms-pattern1-llm-d-modelservice-decode",
    "picker": "gaie-pattern1-epp",
    "gateway": "infra-inference-gateway",
    "route": "llm-d-route",
    "pool": "gaie-pattern1",
    "labels": "llm-d.ai/model=gemma-2b-it",
    "gpu_pool": "nvidia-t4-pool",
    "new_secret": "another-token",
    "literal": "HF_TOKEN=none",
}
"""What the placeholders of `Command.text` stand for on the sandbox."""


@dataclass(frozen=True)
class Command:
    """A command as it is told, and what its output must hold (a regular expression).

    Args:
        text: with placeholders; `{pod}` is filled in from the cluster.
        shows: searched for in standard output, and in standard error for what prints there.
        changes: it changes something, so it runs after the ones that only look.
    """

    text: str
    shows: str
    changes: bool = False

    def words(self, pod: str) -> list[str]:
        return shlex.split(self.text.format(**{**NAMES, "pod": pod}))

    def covers(self, told: str) -> bool:
        """Whether a text that tells `told` is covered by this command."""
        own = self.text.format(**dict.fromkeys(NAMES, "\0")).split("\0")
        return re.fullmatch(r"\S+".join(map(re.escape, own)), told) is not None


LOOKING = [
    # README, profiles and messages
    Command("kubectl get pods -n {namespace}", r"{servers}\S+\s+1/1\s+Running"),
    Command("kubectl get pods -A", r"llm-d\s+{servers}\S+\s+1/1\s+Running"),
    Command("kubectl version", r"Server Version: v1\."),
    Command("kubectl config get-contexts", r"\*\s+llmd-sandbox\b"),
    Command(
        "kubectl -n {namespace} describe pod {pod}",
        r"(?s)nvidia\.com/gpu:\s+1.*Conditions:.*Ready\s+True.*Events:",
    ),
    Command("kubectl -n {namespace} describe pods", r"(?s)Name:\s+{servers}.*Events:"),
    Command("kubectl -n {namespace} describe pods -l {labels}", r"(?s)Name:\s+{servers}.*Events:"),
    Command("kubectl -n {namespace} describe deployment {servers}", r"1 desired .* 1 available"),
    Command("kubectl -n {namespace} describe httproute {route}", r"(?s)Gaie-Pattern1|gaie-pattern1.*Type:\s+Accepted"),
    Command("kubectl -n {namespace} describe gateway {gateway}", r"(?s)Type:\s+IPAddress.*Type:\s+Programmed"),
    Command("kubectl describe node", r"(?s)Conditions:.*nvidia\.com/gpu"),
    Command("kubectl describe httproute -A", r"(?s)Name:\s+{route}.*Type:\s+Accepted"),
    Command("kubectl get --raw /readyz", r"^ok$"),
    Command("kubectl get validatingwebhookconfigurations", r"No resources found|NAME"),
    # the guide, corrected: what it looks for does not exist under its names (no ModelService, no StatefulSet names)
    Command("kubectl get pods -n {namespace} -l {labels}", r"{servers}\S+\s+1/1\s+Running"),
    Command("kubectl get deployments -n {namespace}", r"{servers}\s+1/1"),
    Command("kubectl get nodes -l cloud.google.com/gke-nodepool={gpu_pool}", r"\sReady\s"),
    Command(
        "kubectl get pods -n {namespace} -l {labels} "
        "-o jsonpath='{{.items[*].status.conditions[?(@.type==\"Ready\")].status}}'",
        r"^True$",
    ),
    Command("kubectl get inferencepool -n {namespace}", r"gaie-pattern1"),
    Command("kubectl get inferencepool {pool} -n {namespace} -o yaml", r"(?s)endpointPickerRef:.*{picker}"),
    Command("kubectl get httproute -n {namespace}", r"{route}"),
    Command(
        "kubectl get gateway {gateway} -n {namespace} -o jsonpath='{{.status.addresses[0].value}}'",
        r"^\d+\.\d+\.\d+\.\d+$",
    ),
    Command("kubectl get configmap {picker} -n {namespace} -o yaml", r"prefix-cache-scorer"),
    Command("kubectl get events -n {namespace} --field-selector type=Normal", r"Started|Created|Pulled|Scheduled"),
    Command("kubectl logs -n {namespace} {pod} --tail=50", r"."),
    Command("kubectl logs -n {namespace} -l {labels} --prefix --tail=20", r"\[pod/{servers}"),
    Command("kubectl logs -n {namespace} deployment/{picker} --tail=200", r"."),
    Command("kubectl rollout status deployment/{servers} -n {namespace} --timeout=60s", r"successfully rolled out"),
    Command(
        "kubectl wait --for=condition=Available deployment/{servers} -n {namespace} --timeout=60s", r"condition met"
    ),
    Command("kubectl wait --for=condition=Ready pod -l {labels} -n {namespace} --timeout=60s", r"condition met"),
    Command("kubectl auth can-i patch httproutes.gateway.networking.k8s.io -n {namespace}", r"^yes$"),
    Command("kubectl auth can-i create deployments.apps -n {namespace}", r"^yes$"),
]

CRASHED = Command("kubectl -n {namespace} logs {pod} --previous", r"\S")
"""Told of a replica that ended; `{pod}` must have restarted."""

CHANGING = [
    # messages
    Command(
        "kubectl -n {namespace} create secret generic {new_secret} --from-literal={literal}",
        r"secret/{new_secret} created",
        changes=True,
    ),
    Command("kubectl delete secret {new_secret} -n {namespace}", r'"{new_secret}" deleted', changes=True),
    Command(
        "kubectl create secret generic {new_secret} -n {namespace} --from-literal={literal} --dry-run=client -o yaml",
        r"kind: Secret",
        changes=True,
    ),
    Command("kubectl apply -f -", r"secret/{new_secret} created", changes=True),
    # the guide
    Command(
        "kubectl create secret generic huggingface-token -n {namespace} --from-literal=HF_TOKEN=none "
        "--dry-run=client -o yaml",
        r"(?s)HF_TOKEN:.*kind: Secret",
        changes=True,
    ),
    Command("kubectl apply -n {namespace} -f -", r"secret/huggingface-token (configured|unchanged)", changes=True),
    Command("kubectl rollout restart deployment/{picker} -n {namespace}", r"{picker} restarted", changes=True),
    Command(
        "kubectl rollout status deployment/{picker} -n {namespace} --timeout=120s",
        r"successfully rolled out",
        changes=True,
    ),
    Command("kubectl scale deployment {servers} -n {namespace} --replicas=0", r"{servers} scaled", changes=True),
    Command(
        "kubectl wait --for=delete pod -l {labels} -n {namespace} --timeout=60s",
        r"condition met|^$",
        changes=True,
    ),
    Command("kubectl scale deployment {servers} -n {namespace} --replicas=1", r"{servers} scaled", changes=True),
    Command(
        "kubectl rollout status deployment/{servers} -n {namespace} --timeout=120s",
        r"successfully rolled out",
        changes=True,
    ),
    Command("kubectl delete pods -n {namespace} -l {labels}", r'pod "{servers}\S+" deleted', changes=True),
    Command(
        "kubectl rollout status deployment/{servers} -n {namespace} --timeout=120s",
        r"successfully rolled out",
        changes=True,
    ),
]


def known(told: str) -> bool:
    """Whether some command here covers what a text tells."""
    return any(command.covers(" ".join(told.split())) for command in (*LOOKING, CRASHED, *CHANGING))
