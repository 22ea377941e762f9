"""01, the guide's Step 2: tools, and what the configuration files of both patterns would install."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmd_runbook.clients.kubernetes import SECRETS, Object
from llmd_runbook.clients.releases import binary, helmfile
from llmd_runbook.errors import Forbidden, NotFound, ToolError
from llmd_runbook.profile import Pattern, Profile
from llmd_runbook.run import StageRun
from llmd_runbook.run.display import Shown
from llmd_runbook.stages import site
from llmd_runbook.stages.load import measurement
from llmd_runbook.stages.review.settings import (
    ServerSettings,
    gpu_deployments,
    server_settings,
    shortcomings,
    unexpected,
    unproved,
)
from llmd_runbook.verdicts import Check, Table, declare

TOOLS = declare(
    "tools.versions",
    "the release tools that the profile's drivers call are here and new enough: helm 3.12, helmfile 1.1",
    "install what the message names and put it on PATH; helm-diff and kubectl are not needed by any stage",
)
RENDERS = declare(
    "configuration.renders",
    "the configuration of both patterns exists, parses, and renders exactly the releases and objects that the "
    "profile names",
    "correct the values, the helmfile, or the names in the profile; `helm template` shows what is rendered",
)
BRANCH = declare(
    "configuration.branch",
    "each pattern's configuration leads to its own releases and its own model, not to the other pattern's",
    "give the pattern a branch of its own: values files by its postfix, or releases with other names",
)
VALUES = declare(
    "configuration.values",
    "model, replicas, GPUs, context length, GPU memory, precision and prefix caching are what the profile and the "
    "guide need",
    "correct the values file at what is named",
)
TOKEN = declare(
    "token.secret",
    "the Secret that the model servers read their Hugging Face token from exists, and has a value under that key",
    "kubectl -n NAMESPACE create secret generic NAME --from-literal=KEY=... (the chart reads HF_TOKEN and no other)",
)

GUIDE = {"Pattern 1": ("4096", "0.85"), "Pattern 3": ("2048", "0.75")}
"""The guide's `--max-model-len` and `--gpu-memory-utilization`, as its YAML has them (its table says 0.80 for 3)."""


@dataclass(frozen=True)
class Rendered:
    """What a pattern's releases render to; `trouble` says why nothing, in the tool's own words."""

    pattern: Pattern
    names: list[str]
    manifests: list[Object]
    trouble: str = ""

    @property
    def servers(self) -> ServerSettings | None:
        """The model servers; None where there is not exactly one Deployment of them."""
        found = gpu_deployments(self.manifests)
        return server_settings(found[0]) if len(found) == 1 else None


def rendered(profile: Profile) -> dict[str, Rendered]:
    """Both patterns as they would be installed; what cannot be rendered is kept with its reason."""
    return {title: rendered_pattern(profile, pattern) for title, pattern in patterns(profile).items()}


def rendered_pattern(profile: Profile, pattern: Pattern) -> Rendered:
    """One pattern as it would be installed, or the reason why it cannot be rendered."""
    try:
        driver = site.driver(profile, pattern)
        return Rendered(pattern, driver.names(), driver.render())
    except ToolError as error:
        return Rendered(pattern, [], [], error.in_short)


def patterns(profile: Profile) -> dict[str, Pattern]:
    """Both patterns under the names that people give them."""
    return {"Pattern 1": profile.pattern1, "Pattern 3": profile.pattern3}


def tools(stage: StageRun) -> Shown:
    """Versions of the tools that the drivers call."""
    profile = stage.profile
    versions: dict[str, str] = {}
    wrong = []
    with stage.step("ask the release tools for their versions") as step:
        for pattern in patterns(profile).values():
            try:
                versions |= site.driver(profile, pattern).versions()
            except ToolError as error:
                wrong.append(f"{error.what}: {error.reason or error.remedy}")
        step.ok(", ".join(f"{name} {version}" for name, version in versions.items()))
    stage.check(judge_tools(versions, wrong))
    rows: list[list[str | int | float | None]] = [[name, version] for name, version in sorted(versions.items())]
    return stage.table(Table(title="Tools", columns=["tool", "version"], rows=rows))


def judge_tools(versions: Mapping[str, str], wrong: list[str]) -> Check:
    """`wrong`: why a tool did not even say its version."""
    problems = list(dict.fromkeys(wrong))
    for name, oldest in (("helm", binary.OLDEST), ("helmfile", helmfile.OLDEST)):
        try:
            binary.require(versions.get(name, ""), oldest, name, TOOLS.remedy)
        except ToolError as error:
            problems.append(error.what)
    observed = ", ".join(f"{name} {version}" for name, version in sorted(versions.items())) or "none"
    return TOOLS.judge(
        not problems and bool(versions),
        expected="helm 3.12 or newer; helmfile 1.1 or newer where a pattern is installed by it",
        observed="; ".join(problems) or observed,
        evidence=[observed],
    )


def configuration(stage: StageRun) -> Shown:
    """Both patterns rendered, and judged; nothing of the cluster is asked but for the token's Secret."""
    profile = stage.profile
    with stage.step("render both patterns") as step:
        found = rendered(profile)
        step.ok(", ".join(f"{title}: {len(item.manifests)} objects" for title, item in found.items()))
    for check in (judge_renders(found), judge_branch(found), judge_values(found, profile)):
        stage.check(check)
    with stage.step("look for the token's Secret"):
        stage.check(_token(stage, found))
    rows: list[list[str | int | float | None]] = []
    for title, item in found.items():
        servers, guide = item.servers, GUIDE[title]
        if servers:
            caching = {True: "on", False: "off", None: "not said"}[servers.prefix_caching]
            length = f"{servers.max_model_len or 'not said'} (guide {guide[0]})"
            memory = f"{servers.gpu_memory_utilization or 'not said'} (guide {guide[1]})"
            rows.append([title, " ".join(servers.models), servers.replicas, caching, length, memory, servers.dtype])
    columns = ["pattern", "model", "replicas", "prefix caching", "max-model-len", "gpu-memory-utilization", "dtype"]
    return stage.table(Table(title="What the values say", columns=columns, rows=rows))


def judge_renders(found: Mapping[str, Rendered]) -> Check:
    """Exactly the releases and objects that the profile names."""
    wrong = [f"{title}: {item.trouble}" for title, item in found.items() if item.trouble]
    wrong += [
        f"{title}: {problem}"
        for title, item in found.items()
        if not item.trouble
        for problem in unexpected(item.manifests, item.names, item.pattern)
    ]
    return RENDERS.judge(
        not wrong,
        expected="; ".join(f"{title}: InferencePool {item.pattern.inference_pool}" for title, item in found.items()),
        observed="; ".join(wrong) or "; ".join(f"{title}: {', '.join(item.names)}" for title, item in found.items()),
        evidence=[f"{title}: {', '.join(_objects(item.manifests))}" for title, item in found.items()],
    )


def judge_branch(found: Mapping[str, Rendered]) -> Check:
    """The two patterns have neither a release nor a model in common."""
    one, other = found.values()
    expected = "no release and no model in common"
    if one.trouble or other.trouble or not (one.servers and other.servers):
        return BRANCH.judge(None, expected=expected, observed="not both patterns render model servers")
    releases = sorted(set(one.names) & set(other.names))
    models = sorted(set(one.servers.models[:1]) & set(other.servers.models[:1]))  # the first is the model's own name
    return BRANCH.judge(
        not releases and not models,
        expected=expected,
        observed=f"in common: {', '.join([*releases, *models])}" if releases or models else "nothing in common",
        evidence=[f"{title}: {', '.join(item.names)}" for title, item in found.items()],
    )


def judge_values(found: Mapping[str, Rendered], profile: Profile) -> Check:
    """The model servers are the ones that the profile describes."""
    sent = measurement.longest_prompt_tokens(profile) + profile.load.output_tokens
    longest = max(sent, profile.affinity.prefix_tokens + 1)
    wrong, unknown = [], []
    for title, item in found.items():
        if item.servers is None:
            unknown.append(f"{title} renders no model servers")
            continue
        wrong += [
            f"{title}: {problem}"
            for problem in shortcomings(
                item.servers,
                item.pattern,
                profile.names(item.pattern),
                accelerator=profile.pool.accelerator,
                longest_tokens=longest,
                caches=item.pattern is profile.pattern3,
            )
        ]
        accelerator = profile.pool.accelerator
        unknown += [f"{title}: {each}" for each in unproved(item.servers, accelerator=accelerator)]
    asked = [f"{title}: {item.pattern.replicas} x {item.pattern.model}" for title, item in found.items()]
    return VALUES.judge(
        False if wrong else None if unknown else True,
        expected=", ".join(asked) + f", at least {longest} tokens of context, prefix caching not off in Pattern 3",
        observed="; ".join([*wrong, *unknown]) or "as expected",
    )


def judge_token(wanted: Mapping[tuple[str, str], str]) -> Check:
    """`wanted`: Secret and key -> empty where it is there, else what is wrong with it; `?` before what is unknown."""
    expected = ", ".join(f"Secret {name} with key {key}" for name, key in wanted) or "no token: no replica asks for one"
    wrong = [said for said in wanted.values() if said and not said.startswith("?")]
    unknown = [said.removeprefix("?") for said in wanted.values() if said.startswith("?")]
    return TOKEN.judge(
        False if wrong else None if unknown else True,
        expected=expected,
        observed="; ".join([*wrong, *unknown]) or "there" if wanted else "no replica reads a token",
        remedy="look as somebody who may `get` that Secret; the observer's role leaves Secrets out"
        if unknown and not wrong
        else "",
    )


def _token(stage: StageRun, found: Mapping[str, Rendered]) -> Check:
    """Only the names of the keys are looked at, and whether a value is empty; none is kept."""
    kube, namespace = site.kubernetes(stage.profile), stage.profile.namespace
    servers = [item.servers for item in found.values()]
    wanted = dict.fromkeys(sorted({item.token for item in servers if item and item.token}), "")
    for name, key in wanted:
        try:
            data = kube.get(SECRETS, name, namespace).get("data") or {}
            if not data.get(key):
                wanted[name, key] = f"Secret {name} has no {key} but {', '.join(sorted(data)) or 'no key at all'}"
        except NotFound:
            wanted[name, key] = f"there is no Secret {name} in {namespace}"
        except Forbidden as error:
            wanted[name, key] = f"?{error.in_short}"
    if any(item is None for item in servers):
        wanted["(unknown)", "(unknown)"] = "?not every pattern renders model servers"
    return judge_token(wanted)


def _objects(manifests: list[Object]) -> list[str]:
    return sorted(f"{item['kind']} {item['metadata']['name']}" for item in manifests)
