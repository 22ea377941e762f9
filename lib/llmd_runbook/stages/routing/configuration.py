"""05: the endpoint picker as it is configured here, and what would break its routing. Changes nothing."""

from __future__ import annotations

from llmd_runbook.analysis.guide import GUIDE_WEIGHTS
from llmd_runbook.analysis.picker_config import PickerConfig
from llmd_runbook.analysis.picker_flags import MORE_IN_THE_LOG, what_is_logged
from llmd_runbook.analysis.routing_facts import RoutingFacts, Unread
from llmd_runbook.analysis.routing_lint import guide_prompts, lint
from llmd_runbook.discovery import routing_facts
from llmd_runbook.load.prompts import SUFFIX_TOKENS, shared_prefix, unique
from llmd_runbook.run import StageRun, display
from llmd_runbook.run.display import Shown
from llmd_runbook.stages import site
from llmd_runbook.verdicts import Table, declare

_SEED = 0
"""Prompts of every seed are as long; these are looked at and never sent."""

CHECKS = {
    "config": declare(
        "routing.config",
        "the endpoint picker's configuration is found through the pool, and holds nothing that the picker refuses",
        "correct the line in pluginsCustomConfig of the InferencePool's release, install again, restart the picker",
    ),
    "config_loaded": declare(
        "routing.config_loaded",
        "the picker runs with the plugins, parameters and weights that its ConfigMap has now",
        "restart the picker, which reads its configuration when it starts; its prefix index starts empty then",
    ),
    "kv_metric": declare(
        "routing.kv_metric",
        "the metric that the picker takes for KV use is there on every replica, so that its score says something",
        "set the flag kv-cache-usage-percentage-metric of the InferencePool's release to vllm:kv_cache_usage_perc",
    ),
    "selector": declare(
        "routing.selector",
        "the pool selects pods of this model alone, and no two Deployments claim the same pods",
        "give each pattern labels of its own (modelArtifacts.labels) and select them (modelServers of its pool)",
    ),
    "route": declare(
        "routing.route",
        "an HTTPRoute sends to the pool, accepted in the form that it has now",
        "apply the HTTPRoute (no chart renders one); its conditions: kubectl describe httproute -A",
    ),
    "single_picker": declare(
        "routing.single_picker",
        "one picker serves and knows all prefixes; several at once would each know a part",
        "set the picker's replicas to 1 (inferenceExtension.replicas, newest router.epp.replicas)",
    ),
    "picker_fits": declare(
        "routing.picker_fits",
        "the picker's pod found a node for what it requests",
        "lower the picker's resource requests below what a node offers, or add a larger node",
    ),
    "block_size": declare(
        "routing.block_size",
        "the shared prefixes of the affinity test are at least a block long as this picker counts, so it can see them",
        "raise affinity.prefix_tokens in the profile, or lower the block size in the picker's configuration",
    ),
    "index_size": declare(
        "routing.index_size",
        "the picker's index holds the blocks of the affinity test without forgetting any",
        "raise lruCapacityPerServer (or leave autoTune on), or lower affinity.groups in the profile",
    ),
    "prompts": declare(
        "routing.prompts",
        "the prompts of the profile's load are long enough for the picker to see their prefixes",
        "raise load.prompt_tokens in the profile",
    ),
}


def configuration(stage: StageRun) -> Shown:
    """Reads pool, picker, routes and replicas, judges each rule; shows the plugins and the guide's prompts."""
    facts = _facts(stage)
    for found in lint(facts):
        stage.check(
            CHECKS[found.rule].judge(
                found.ok,
                expected=found.expected,
                observed=found.observed,
                evidence=found.evidence,
                remedy=found.remedy,
            )
        )
    stage.kept["facts"] = facts
    stage.kept["weights"] = facts.parsed.weights if isinstance(facts.parsed, PickerConfig) else {}
    display.show(stage.table(_plugins(facts)))
    _note_log(stage, facts)
    return stage.table(_guide_prompts(stage, facts))


def _facts(stage: StageRun) -> RoutingFacts:
    profile = stage.profile
    wanted, load = profile.affinity, profile.load
    with stage.step("read pool, picker, configuration, routes and replicas") as step:
        kube = site.kubernetes(profile)
        pool = site.pattern3_pool(kube, profile)
        tokens = wanted.prefix_tokens + SUFFIX_TOKENS
        shared: dict[str, list[str]] = {}
        for prompt in shared_prefix(
            wanted.groups, wanted.requests_per_group, prefix_tokens=wanted.prefix_tokens, tokens=tokens, seed=_SEED
        ):
            shared.setdefault(prompt.group, []).append(prompt.text)
        facts = routing_facts(
            kube,
            profile.namespace,
            pool,
            profile.pattern3.model,
            shared_prompts=shared,
            control_prompts=[prompt.text for prompt in unique(wanted.independent, tokens, seed=_SEED)],
            load_prompts=[prompt.text for prompt in unique(load.requests, load.prompt_tokens, seed=_SEED)],
        )
        step.ok(facts.config.reason if isinstance(facts.config, Unread) else facts.config.source)
    return facts


def _plugins(facts: RoutingFacts) -> Table:
    rows: list[list[str | int | float | None]] = []
    if isinstance(facts.parsed, PickerConfig):
        for plugin in facts.parsed.plugins:
            given = ", ".join(f"{key}: {value}" for key, value in plugin.parameters.items())
            weight = facts.parsed.weights.get(plugin.type)
            rows.append([plugin.name, plugin.type, weight, GUIDE_WEIGHTS.get(plugin.type), given or "none"])
    there = {row[1] for row in rows}
    rows += [[None, kind, None, weight, "absent"] for kind, weight in GUIDE_WEIGHTS.items() if kind not in there]
    columns = ["plugin", "type", "weight here", "weight in the guide", "parameters"]
    return Table(title="The endpoint picker's plugins", columns=columns, rows=rows)


def _note_log(stage: StageRun, facts: RoutingFacts) -> None:
    """Evidence and no verdict: a picker that logs less routes as well as any."""
    if isinstance(facts.picker, Unread):
        return
    said, whole = what_is_logged(facts.picker.arguments)
    more = "" if whole else f" {MORE_IN_THE_LOG[0].upper()}{MORE_IN_THE_LOG[1:]}."
    stage.note("What the picker logs of a decision", f"{said}.{more}")


def _guide_prompts(stage: StageRun, facts: RoutingFacts) -> Table:
    columns = ["guide", "prompt", "bytes", "full blocks", "hashes"]
    title = "The guide's own prompts under this picker's rules"
    found = guide_prompts(facts)
    if isinstance(found, Unread):
        stage.note("The guide's own prompts", f"How this picker hashes them is not known: {found.reason}")
        return Table(title=title, columns=columns, rows=[])
    blind = sum(item.full_blocks == 0 for item in found)
    stage.note(
        "The guide's own prompts",
        f"A block is {facts.block_bytes} bytes here; {blind} of the guide's {len(found)} prompts fill none and share "
        "nothing with another prompt. One without a hash scores 0 for its prefix on every replica: where it lands "
        "proves nothing.",
    )
    rows: list[list[str | int | float | None]] = [
        [item.test, item.text, item.size_bytes, item.full_blocks, item.hashes] for item in found
    ]
    return Table(title=title, columns=columns, rows=rows)
