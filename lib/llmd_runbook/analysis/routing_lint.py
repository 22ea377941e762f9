"""What breaks prefix-aware routing in practice: one rule a cause, each judging facts that were discovered.

A rule is `ok`, or not, or None where what it needs could not be read or decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmd_runbook.analysis.guide import GUIDE_PROMPTS
from llmd_runbook.analysis.picker_config import ConfigError, PickerConfig
from llmd_runbook.analysis.picker_flags import default_kv_metrics, flag
from llmd_runbook.analysis.picker_loaded import differences
from llmd_runbook.analysis.routing_facts import ReplicaFacts, RoutingFacts, Unread
from llmd_runbook.analysis.scorers import KV_SCORER, PREFIX_SCORER


@dataclass(frozen=True)
class Finding:
    """What a rule found; `remedy` only where it says more than the rule's own."""

    rule: str
    ok: bool | None
    expected: str
    observed: str
    evidence: tuple[str, ...] = ()
    remedy: str = ""


Rule = Callable[[RoutingFacts], Finding]


def config(facts: RoutingFacts) -> Finding:
    """A picker refuses what it does not know and does not start (strict decoder of both generations' loaders)."""
    expected = "an EndpointPickerConfig in which every plugin and parameter is known"
    parsed = facts.parsed
    if isinstance(parsed, Unread):
        return Finding("config", None, expected, parsed.reason)
    assert not isinstance(facts.config, Unread)
    if isinstance(parsed, ConfigError):
        return Finding("config", False, expected, str(parsed), (facts.config.source,))
    scorers = ", ".join(f"{name} {weight:g}" for name, weight in parsed.weights.items()) or "no scorers"
    model = (
        () if not isinstance(facts.rules, Unread) else (f"the reference model cannot follow it: {facts.rules.reason}",)
    )
    return Finding("config", True, expected, scorers, (facts.config.source, f"generation {parsed.generation}", *model))


def config_loaded(facts: RoutingFacts) -> Finding:
    """A picker reads its file once, at its start, and logs what it read; a later change of the file restarts nothing.

    Where its log does not tell, times count: they prove no difference, for what was changed since may be a label.
    """
    expected = "the picker logged at its start the plugins, parameters and weights of its ConfigMap, or that is older"
    if isinstance(facts.config, Unread) or isinstance(facts.picker, Unread):
        return Finding("config_loaded", None, expected, _reason(facts.config, facts.picker))
    running = [pod for pod in facts.picker.pods if pod.ready and pod.started]
    if not running:
        return Finding("config_loaded", None, expected, "no picker runs")
    if not isinstance(facts.parsed, PickerConfig):
        return Finding("config_loaded", None, expected, "nothing can be compared with a file that is refused")
    first = min(pod.started for pod in running)
    times = f"changed {facts.config.changed}, picker started {first}"
    evidence = [facts.config.source, times if facts.config.changed else "no time of change is kept"]
    other: list[str] = []
    untold: list[str] = []
    for pod in running:
        if isinstance(pod.loaded, Unread):
            untold.append(f"{pod.name}: {pod.loaded.reason}")
        else:
            other += [f"{pod.name}: {difference}" for difference in differences(pod.loaded, facts.parsed)]
    if other:
        observed = "; ".join(other[:2]) + (f"; {len(other) - 2} more" if len(other) > 2 else "")
        return Finding("config_loaded", False, expected, observed, (*evidence, *other))
    if not untold:
        return Finding("config_loaded", True, expected, "the same, by the picker's own log", tuple(evidence))
    before = bool(facts.config.changed) and facts.config.changed <= first
    observed = f"{evidence[1]}; the log does not tell: {untold[0]}"
    return Finding("config_loaded", before or None, expected, observed, (*evidence, *untold))


def kv_metric(facts: RoutingFacts) -> Finding:
    """A metric that no replica exposes leaves the score at 1 - 0 for all (GIE #1905, llm-d #509)."""
    expected = "the KV metric that the picker reads is in every replica's /metrics"
    if isinstance(facts.picker, Unread):
        return Finding("kv_metric", None, expected, facts.picker.reason)
    if isinstance(facts.parsed, PickerConfig) and not facts.parsed.weights.get(KV_SCORER):
        return Finding("kv_metric", True, expected, "this picker does not score by KV use")
    given = flag(facts.picker.arguments, "kv-cache-usage-percentage-metric")
    metrics = (given,) if given else default_kv_metrics(facts.picker.image)
    unread = tuple(f"{r.name}: {r.series.reason}" for r in facts.ready if isinstance(r.series, Unread))
    lacking = {metric: [r.name for r in facts.ready if _exposes(r, metric) is False] for metric in metrics}
    verdicts = {bool(names) for names in lacking.values()}
    source = "--kv-cache-usage-percentage-metric" if given else f"the default of {facts.picker.image}"
    evidence = tuple(f"{metric}: absent at {', '.join(names) or 'none'}" for metric, names in lacking.items()) + unread
    if verdicts == {True}:
        observed = f"{' or '.join(metrics)} ({source}) is not exposed: its score is the same constant for every replica"
        return Finding("kv_metric", False, expected, observed, evidence)
    if len(verdicts) > 1:
        observed = f"{source} is {' or '.join(metrics)}: the image does not say which"
        return Finding("kv_metric", None, expected, observed, evidence)
    if unread or not facts.ready:
        observed = f"{len(unread)} replicas could not be read" if unread else "no replica is Ready"
        return Finding("kv_metric", None, expected, observed, evidence)
    return Finding("kv_metric", True, expected, f"{' or '.join(metrics)} ({source}), at {len(facts.ready)} replicas")


def selector(facts: RoutingFacts) -> Finding:
    """A picker does not look at the model: another model's pod in its pool answers 404 (llm-d #1878)."""
    expected = f"every pod of the pool serves {facts.model}; no other Deployment's selector takes in its pods"
    if isinstance(facts.replicas, Unread):
        return Finding("selector", None, expected, facts.replicas.reason)
    foreign, unknown, evidence = [], [], []
    for replica in facts.replicas:
        if isinstance(replica.models, Unread):
            unknown.append(f"{replica.name}: {replica.models.reason}")
            continue
        evidence.append(f"{replica.name}: {', '.join(replica.models)} ({replica.said_by})")
        if facts.model not in replica.models:
            foreign.append(replica.name)
    overlaps = _overlaps(facts)
    evidence += [*unknown, *(overlaps if isinstance(overlaps, list) else [overlaps.reason])]
    observed = f"{len(foreign)} of {len(facts.replicas)} pods serve another model"
    observed += f"; {len(overlaps)} Deployments overlap" if isinstance(overlaps, list) and overlaps else ""
    if foreign or (isinstance(overlaps, list) and overlaps):
        return Finding("selector", False, expected, observed, tuple(evidence))
    if unknown or isinstance(overlaps, Unread) or not facts.replicas:
        observed = "the pool selects no pod" if not facts.replicas else f"{observed}; not everything could be read"
        return Finding("selector", None, expected, observed, tuple(evidence))
    return Finding("selector", True, expected, observed, tuple(evidence))


def route(facts: RoutingFacts) -> Finding:
    """No chart renders the HTTPRoute; without an accepted one every request gets the gateway's own 404."""
    backend = f"InferencePool/{facts.pool}"
    expected = f"an HTTPRoute to {backend}, Accepted and ResolvedRefs in its current generation"
    if isinstance(facts.routes, Unread):
        return Finding("route", None, expected, facts.routes.reason)
    here = [item for item in facts.routes if backend in item.backends]
    good = [item for item in here if all(_true(item.conditions, kind) for kind in ("Accepted", "ResolvedRefs"))]
    evidence = tuple(
        f"{item.name}: to {', '.join(item.backends) or 'nothing'}; {_conditions(item.conditions)}"
        for item in facts.routes
    )
    if good:
        return Finding("route", True, expected, ", ".join(item.name for item in good), evidence)
    observed = f"{here[0].name}: {_conditions(here[0].conditions)}" if here else "no HTTPRoute names the pool"
    return Finding("route", False, expected, observed, evidence)


def single_picker(facts: RoutingFacts) -> Finding:
    """The prefix index lives in one process; active-active pickers each know a part of it (llm-d-router #1290)."""
    expected = "one picker, Ready"
    if isinstance(facts.picker, Unread):
        return Finding("single_picker", None, expected, facts.picker.reason)
    picker = facts.picker
    ready = [pod.name for pod in picker.pods if pod.ready]
    elects = flag(picker.arguments, "ha-enable-leader-election") not in (None, "false")
    several = len(ready) > 1 or (picker.replicas > 1 and not elects)
    evidence = tuple(f"{pod.name}: {'Ready' if pod.ready else pod.trouble or 'not Ready'}" for pod in picker.pods)
    observed = f"{picker.deployment}: {picker.replicas} replicas, {len(ready)} Ready"
    remedy = "" if several else "no picker serves: look at its pod's events and its log"
    return Finding("single_picker", len(ready) == 1 and not several, expected, observed, evidence, remedy)


def picker_fits(facts: RoutingFacts) -> Finding:
    """The newest charts request 4 to 8 CPUs and 8 GiB, more than an n1-standard-4 has; the scheduler has the word."""
    expected = "every pod of the picker is scheduled"
    if isinstance(facts.picker, Unread):
        return Finding("picker_fits", None, expected, facts.picker.reason)
    picker = facts.picker
    if not picker.pods:
        return Finding("picker_fits", None, expected, f"{picker.deployment} has no pod")
    homeless = [f"{pod.name}: {pod.trouble}" for pod in picker.pods if not pod.scheduled]
    asks = f"a pod requests {picker.requests_cpus:g} CPUs and {picker.requests_bytes / 2**30:.1f} GiB"
    observed = f"{len(picker.pods) - len(homeless)} of {len(picker.pods)} scheduled"
    return Finding("picker_fits", not homeless, expected, observed, (*homeless, asks, _largest(facts)))


def block_size(facts: RoutingFacts) -> Finding:
    """A prefix below one block gives no hash in common (v0.4: 4 x block_size bytes; v0.10: at least 256)."""
    expected = "every shared prefix of the affinity test fills a block at least"
    found = _prefix_scored(facts, "block_size", expected)
    if found:
        return found
    shared = {name: _shared(facts, prompts) for name, prompts in facts.shared_prompts.items()}
    block = facts.block_bytes
    least = min(shared.values(), default=0)
    total = max((len(facts.hashes(text)) for texts in facts.shared_prompts.values() for text in texts), default=0)
    observed = f"a block is {block} bytes; the prefixes fill {least} of at most {total} blocks of a prompt"
    evidence = [f"{name}: {common_bytes(facts.shared_prompts[name])} bytes, {n} blocks" for name, n in shared.items()]
    return Finding("block_size", least >= 1, expected, observed, tuple(evidence))


def index_size(facts: RoutingFacts) -> Finding:
    """An index per replica that is smaller than the prompts' blocks forgets prefixes that are still cached."""
    expected = "the blocks of the affinity test fit into the picker's index"
    found = _prefix_scored(facts, "index_size", expected)
    if found:
        return found
    if isinstance(facts.caches, Unread):
        return Finding("index_size", None, expected, facts.caches.reason)
    assert not isinstance(facts.rules, Unread)
    tuned = min(blocks for _, blocks in facts.caches) if facts.rules.auto_tune else 0
    capacity, count = tuned or facts.rules.lru_capacity, len(facts.caches)
    test = [text for texts in facts.shared_prompts.values() for text in texts] + list(facts.control_prompts)
    needed = len({block for text in test for block in facts.hashes(text)})
    load = len({block for text in facts.load_prompts for block in facts.hashes(text)})
    source = "num_gpu_blocks" if tuned else "lruCapacityPerServer"
    observed = f"{needed} blocks; the index holds {capacity} a replica ({source}), {count} replicas"
    pushes = "pushes the test's blocks out" if load > capacity * count else "leaves room"
    if not needed:
        return Finding("index_size", None, expected, "no prompt of the test gives a hash")
    # within one replica's share nothing can be forgotten; beyond all of them something must be
    ok = True if needed <= capacity else False if needed > capacity * count else None
    return Finding(
        "index_size", ok, expected, observed, (f"one measurement of the profile's load: {load} blocks, which {pushes}",)
    )


def prompts(facts: RoutingFacts) -> Finding:
    """A prompt that fills no block shares nothing with any other, so its routing says nothing of prefixes."""
    expected = "every prompt of the profile's load fills a block at least"
    found = _prefix_scored(facts, "prompts", expected)
    if found:
        return found
    assert isinstance(facts.block_bytes, int)
    sizes = [len(text.encode()) for text in facts.load_prompts]
    short = [size for size in sizes if size < facts.block_bytes]
    observed = f"a block is {facts.block_bytes} bytes; {len(short)} of {len(sizes)} prompts are shorter"
    evidence = (f"prompts of {min(sizes)} to {max(sizes)} bytes",) if sizes else ()
    return Finding("prompts", not short if sizes else None, expected, observed, evidence)


RULES: tuple[Rule, ...] = (
    config,
    config_loaded,
    kv_metric,
    selector,
    route,
    single_picker,
    picker_fits,
    block_size,
    index_size,
    prompts,
)


def lint(facts: RoutingFacts) -> list[Finding]:
    """The findings of all rules, in their order."""
    return [rule(facts) for rule in RULES]


@dataclass(frozen=True)
class GuidePrompt:
    """One of the guide's prompts as this picker sees it: its bytes, the hashes it gives, the blocks it fills."""

    test: str
    text: str
    size_bytes: int
    hashes: int
    full_blocks: int


def guide_prompts(facts: RoutingFacts) -> list[GuidePrompt] | Unread:
    """The guide's own prompts under this picker's rules."""
    block = facts.block_bytes
    if isinstance(block, Unread):
        return block
    sizes = [len(text.encode()) for _, text in GUIDE_PROMPTS]
    return [
        GuidePrompt(test, text, size, len(facts.hashes(text)), size // block)
        for (test, text), size in zip(GUIDE_PROMPTS, sizes, strict=True)
    ]


def common_bytes(texts: Sequence[str]) -> int:
    """Bytes that all texts begin with.

    >>> common_bytes(["the cat", "the dog"])
    4
    """
    first, last = min(map(str.encode, texts)), max(map(str.encode, texts))
    return next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def selects(label_selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector (the API's JSON) matches labels; an empty one matches everything."""
    if not label_selector.get("matchLabels", {}).items() <= labels.items():
        return False
    for item in label_selector.get("matchExpressions", []):
        key, values = item["key"], item.get("values", [])
        holds = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }
        if not holds[item["operator"]]:
            return False
    return True


def _overlaps(facts: RoutingFacts) -> list[str] | Unread:
    """Deployments that would own the pods of one that the pool selects."""
    if isinstance(facts.workloads, Unread):
        return facts.workloads
    return [
        f"Deployment {other.name}: its selector also matches the pods of {mine.name}"
        for mine in facts.workloads
        if facts.selector.items() <= mine.labels.items()
        for other in facts.workloads
        if other is not mine and selects(other.selector, mine.labels)
    ]


def _exposes(replica: ReplicaFacts, metric: str) -> bool | None:
    """Whether a metric, which may carry labels as `name{a=b,c=d}`, is in a replica's exposition."""
    if isinstance(replica.series, Unread):
        return None
    name, _, rest = metric.partition("{")
    pairs = (part.partition("=") for part in rest.rstrip("}").split(",") if part)
    wanted = {key.strip(): value.strip(' "') for key, _, value in pairs}
    return any(wanted.items() <= labels.items() for labels in replica.series.get(name, ()))


def _prefix_scored(facts: RoutingFacts, rule: str, expected: str) -> Finding | None:
    """Why blocks cannot be spoken of; None where they can."""
    if isinstance(facts.parsed, PickerConfig) and not facts.parsed.weights.get(PREFIX_SCORER):
        return Finding(rule, False, expected, f"no {PREFIX_SCORER} with a weight: prefixes are not looked at")
    unread = next((item for item in (facts.rules, facts.block_bytes) if isinstance(item, Unread)), None)
    return Finding(rule, None, expected, unread.reason) if unread else None


def _shared(facts: RoutingFacts, texts: Sequence[str]) -> int:
    """Leading blocks that all texts have in common."""
    hashes = [facts.hashes(text) for text in texts]
    count = 0
    for column in zip(*hashes, strict=False):
        if len(set(column)) > 1:
            break
        count += 1
    return count


def _largest(facts: RoutingFacts) -> str:
    if isinstance(facts.nodes, Unread) or not facts.nodes:
        return f"nodes: {facts.nodes.reason if isinstance(facts.nodes, Unread) else 'none'}"
    cpus, memory = max(node.cpus for node in facts.nodes), max(node.memory_bytes for node in facts.nodes)
    return f"the largest node offers {cpus:g} CPUs, the one with most memory {memory / 2**30:.1f} GiB"


def _reason(*facts: object) -> str:
    return "; ".join(item.reason for item in facts if isinstance(item, Unread))


def _true(conditions: Mapping[str, str], kind: str) -> bool:
    return conditions.get(kind, "").startswith("True")


def _conditions(conditions: Mapping[str, str]) -> str:
    return ", ".join(f"{kind} {value}" for kind, value in sorted(conditions.items())) or "no conditions"
