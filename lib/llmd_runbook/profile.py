"""The validated parameter file: one YAML a cluster; every error names file, line, key and value."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

import rfc8785
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    ValidationError,
    model_validator,
)

from llmd_runbook import yaml_files
from llmd_runbook.errors import ProfileError
from llmd_runbook.prices import TAG_FILE, TAG_PLAIN, PriceFile, Prices, prices_tag
from llmd_runbook.yaml_files import Loc

PROJECT_ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = PROJECT_ROOT / "parameters"


def _dns_label(value: str) -> str:
    if not value or len(value) > 63 or not all(c.isalnum() or c == "-" for c in value) or value != value.lower():
        raise ValueError("must be a Kubernetes name: lower-case letters, digits and '-', at most 63")
    return value


Name = Annotated[str, AfterValidator(_dns_label)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(strict=True, ge=1, le=100_000)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Cluster(_Section):
    """Which cluster this is, and how its API server is reached."""

    access: Literal["kubeconfig", "gke", "in_cluster"] = Field(
        description="`kubeconfig`: a context of one; `gke`: what GKE says of `pool.cluster`, with Google's Application "
        "Default Credentials; `in_cluster`: the service account of the pod that this runs in",
        default="kubeconfig",
    )
    context: str = Field(description="kubeconfig context; empty means the current one", default="")
    kubeconfig: str = Field(description="kubeconfig file; empty means `KUBECONFIG`, else the default file", default="")
    endpoint: Literal["public", "private", "dns"] = Field(
        description="with `gke`, which of the control plane's endpoints", default="public"
    )
    proxy: str = Field(description="with `gke`, proxy to the control plane, as `http://127.0.0.1:8888`", default="")
    simulated: bool = Field(description="true only for the sandbox; a cluster that says otherwise is refused")

    @model_validator(mode="after")
    def _belongs_to_the_access(self) -> Cluster:
        belongs = {"context": "kubeconfig", "kubeconfig": "kubeconfig", "endpoint": "gke", "proxy": "gke"}
        for key, access in belongs.items():
            if key in self.model_fields_set and self.access != access:
                raise ValueError(f"{key} has a meaning with access {access} only, and access is {self.access}")
        return self

    @property
    def named(self) -> str:
        """How it is reached, in words."""
        here = self.context or "the current context"
        return {"kubeconfig": here, "gke": f"by GKE, {self.endpoint} endpoint", "in_cluster": "in-cluster"}[self.access]


class Pool(_Section):
    """The GPU node pool."""

    project: str = Field(description="Google Cloud project", min_length=1)
    location: str = Field(description="zone or region of the GKE cluster", min_length=1)
    cluster: str = Field(description="GKE cluster", min_length=1)
    name: Name = Field(description="node pool that holds the GPUs")
    accelerator: str = Field(description="value of the label `cloud.google.com/gke-accelerator`", min_length=1)
    mode: Literal["resize", "autoscale", "observe"] = Field(
        description="who sizes the pool: `resize`: stages 02 and 07, by hand; `autoscale`: the cluster's autoscaler, "
        "for pods that wait, and the stages set its bounds where they are in the way; `observe`: not this run, the "
        "nodes must be there",
        default="resize",
    )
    nodes: Count = Field(description="nodes that Pattern 3 needs, one GPU each; in all zones together")
    min_nodes: int = Field(description="autoscaling minimum, in all zones together", strict=True, ge=0, default=0)
    max_nodes: Count = Field(description="autoscaling maximum, in all zones together", default=5)
    ready_timeout_s: Seconds = Field(description="deadline for nodes to be Ready with allocatable GPUs", default=900)
    spot: str = Field(
        description="name of a spot pool for Pattern 3's replicas, one node each, that stage 02 creates like the pool "
        "and stage 07 deletes; empty: Pattern 3 runs on the pool",
        default="",
    )

    @model_validator(mode="after")
    def _sizes_fit(self) -> Pool:
        if self.max_nodes < self.nodes:
            raise ValueError(f"max_nodes {self.max_nodes} is below nodes {self.nodes}: the pool could never hold them")
        if self.min_nodes > self.nodes:
            raise ValueError(f"min_nodes {self.min_nodes} is above nodes {self.nodes}")
        if self.spot and self.mode != "resize":
            raise ValueError(f"a spot pool is created and sized by the stages, and mode is {self.mode}")
        if self.spot and _dns_label(self.spot) == self.name:
            raise ValueError(f"spot {self.spot} is the pool's own name: give the spot pool another one")
        return self

    @property
    def of_pattern3(self) -> str:
        """The pool whose nodes Pattern 3's replicas take."""
        return self.spot or self.name


class HelmRelease(_Section):
    """One helm release."""

    name: Name = Field(description="release name")
    chart: str = Field(description="chart: a folder relative to the profile, or an `oci://` reference", min_length=1)
    version: str = Field(description="chart version, for a chart that is not a folder", default="")
    values: list[str] = Field(description="values files, relative to the profile", default=[])


class HelmReleases(_Section):
    """Releases installed by helm, in this order."""

    driver: Literal["helm"] = Field(description="`helm`")
    releases: list[HelmRelease] = Field(description="in order of installation", min_length=1)


class HelmfileReleases(_Section):
    """Releases that one helmfile renders (the guide's layout)."""

    driver: Literal["helmfile"] = Field(description="`helmfile`")
    file: str = Field(description="helmfile, relative to the profile", min_length=1)
    environment: str = Field(description="helmfile environment", default="gke")
    postfix: Name = Field(description="`RELEASE_NAME_POSTFIX`: names the stack")


class ProgressDeadlines(_Section):
    """How long a pod may show no progress, by its phase. A phase that comes, an Event or a line of the log that was
    never there before is progress and begins the time anew; a restart, a warning and what is said again are not.
    """

    capacity_s: Seconds = Field(
        description="no node takes the pod, and neither scheduler nor autoscaler says anything new", default=900
    )
    image_pull_s: Seconds = Field(description="it has a node: volumes, Secrets, image", default=900)
    download_s: Seconds = Field(
        description="its container runs and fetches the weights; vLLM says nothing meanwhile, so this is as long as a "
        "whole download may take",
        default=1200,
    )
    load_s: Seconds = Field(description="the weights come into GPU memory", default=600)
    warm_up_s: Seconds = Field(
        description="from loaded weights to Ready: compilation, CUDA graphs, server, probe; of an endpoint picker, "
        "from its container's start to Ready",
        default=600,
    )


class Pattern(_Section):
    """One pattern: model servers and their InferencePool."""

    model: str = Field(description="model name that clients send", min_length=1)
    replicas: Count = Field(description="model server replicas, one GPU each")
    inference_pool: Name = Field(description="InferencePool of the pattern")
    gateway: Name = Field(description="Gateway that serves the pattern")
    ready_timeout_s: Seconds = Field(
        description="deadline for all replicas to be Ready, whatever progress they show", default=1800
    )
    progress_deadlines: ProgressDeadlines = ProgressDeadlines()
    releases: Annotated[HelmReleases | HelmfileReleases, Field(discriminator="driver")] = Field(
        description="what installs it"
    )


class Route(_Section):
    """The HTTPRoute that carries the clients' traffic."""

    name: Name = Field(description="HTTPRoute of the clients; the swap moves `route`'s, never Pattern 2's")
    url: str = Field(
        description="gateway URL with its path prefix, for an internal gateway or a tunnel to one; `route`'s only "
        "where Patterns 1 and 3 have one Gateway; empty means the Gateway's own address and listener",
        default="",
    )
    host: str = Field(
        description="Host of the requests, and name of the certificate; empty means the hostname of the HTTPRoute, "
        "else of the listener, else the URL's",
        default="",
    )
    ca_file: str = Field(
        description="authorities for https, relative to the profile; empty means the system's", default=""
    )
    bearer_variable: str = Field(description="environment variable with a bearer token for the gateway", default="")
    bearer_file: str = Field(description="file with a bearer token for the gateway, instead", default="")
    ready_timeout_s: Seconds = Field(description="deadline for the route to carry traffic", default=600)

    @model_validator(mode="after")
    def _one_token(self) -> Route:
        if self.bearer_variable and self.bearer_file:
            raise ValueError("bearer_variable and bearer_file are two places for one token: name one")
        if any(character.isspace() or not character.isascii() for character in self.bearer_variable):
            raise ValueError("bearer_variable is the name of a variable, not a token")
        return self


class Beside(_Section):
    """Pattern 2, which runs beside on the same pool and stays as it is; without the section there is none."""

    model: str = Field(description="model name that its clients send", min_length=1)
    replicas: Count = Field(description="its replicas, one GPU each", default=1)
    inference_pool: Name = Field(description="InferencePool of Pattern 2")
    gateway: Name = Field(description="Gateway that serves it: one of its own")
    route: Route


class Swap(_Section):
    """How stage 03 goes from Pattern 1 to Pattern 3."""

    strategy: Literal["recreate", "surge"] = Field(
        description="`recreate`: the guide's order, no extra GPU, an outage that is measured; "
        "`surge`: Pattern 3 beside Pattern 1, more GPUs for a while, no outage",
        default="recreate",
    )
    rollback: Literal["auto", "never"] = Field(
        description="`auto`: back to Pattern 1 where Pattern 3 misses a deadline or a gate; `never`: stop there",
        default="auto",
    )
    old_name: Literal["refused", "alias"] = Field(
        description="what becomes of Pattern 1's model name: `refused` by Pattern 3's servers with 404; `alias`: they "
        "answer to it too, and its values must say so (`--served-model-name NEW OLD`)",
        default="refused",
    )
    probe_requests_per_s: Annotated[float, Field(ge=20, le=500)] = Field(
        description="short requests that the probe sends through the gateway during the swap, half under each name",
        default=24,
    )
    quiet_s: Seconds = Field(
        description="with `surge`, how long Pattern 1's counters must stand still before it goes; longer than the "
        "gateway's data path lags its conditions",
        default=35,
    )
    compare_rounds: Annotated[int, Field(strict=True, ge=0, le=20)] = Field(
        description="with `surge`, how often both patterns are measured by turns while both run; 0: not at all",
        default=2,
    )
    max_p95_ratio: Annotated[float, Field(gt=0)] = Field(
        description="gate: Pattern 3's p95 latency over the baseline's of stage 01, at the same load", default=2.0
    )


class Load(_Section):
    """The measured load; the same for both patterns, else no ratio is shown."""

    mix: Literal["unique", "service"] = Field(
        description="`unique`: prompts of `prompt_tokens` that share nothing; `service`: chats under shared system "
        "prompts, questions about shared documents and unique ones, 5 : 3 : 2, up to 816 tokens",
        default="unique",
    )
    requests: Count = Field(description="requests a measurement, warm-up excluded", default=200)
    concurrency: Count = Field(description="requests in flight", default=20)
    prompt_tokens: Count = Field(description="tokens a prompt, about, with `mix: unique`", default=70)
    output_tokens: Count = Field(description="tokens an answer, exactly (`ignore_eos`)", default=98)
    request_timeout_s: Seconds = Field(description="a slower request is a failed one", default=120)
    scheduler: str = Field(
        description="address of a dask scheduler (`tcp://host:8786`) over whose workers the load is split; "
        "empty means this machine alone",
        default="",
    )
    processes: Annotated[int, Field(strict=True, ge=1, le=64)] = Field(
        description="processes of this machine over which the load is split, by a dask cluster of its own; for more "
        "streams than one processor carries",
        default=1,
    )
    sweep: list[Count] = Field(
        description="more levels of requests in flight that stage 06 measures Pattern 3 with, to find where more stop "
        "paying; a minute or so each",
        default_factory=list,
        max_length=12,
    )
    scale_up_to: Annotated[int, Field(strict=True, ge=2, le=8)] | None = Field(
        description="lets stage 06 run Pattern 3 on 1 to so many replicas in turn, measure each under the same load, "
        "and put the number back; the pool must have a GPU for each; empty: not at all",
        default=None,
    )
    slo_ttft_s: Seconds | None = Field(
        description="objective: time to the first token (s); goodput counts what meets every objective", default=None
    )
    slo_latency_s: Seconds | None = Field(description="objective: time to the whole answer (s)", default=None)
    client_tolerance: Annotated[float, Field(gt=0, le=0.5)] = Field(
        description="part of a measured latency that the client may add; beyond it nothing is proved", default=0.02
    )

    @model_validator(mode="after")
    def _one_fleet(self) -> Load:
        if self.processes > 1 and self.scheduler:
            raise ValueError("scheduler and processes are two ways to split one load: name one")
        if self.processes > self.concurrency:
            raise ValueError(f"{self.concurrency} requests in flight cannot be split over {self.processes} processes")
        return self


class Affinity(_Section):
    """The routing test."""

    groups: Annotated[int, Field(strict=True, ge=4, le=100)] = Field(description="distinct shared prefixes", default=10)
    requests_per_group: Annotated[int, Field(strict=True, ge=3, le=100)] = Field(
        description="requests that share one prefix", default=5
    )
    independent: Annotated[int, Field(strict=True, ge=12, le=1000)] = Field(
        description="requests that share nothing", default=30
    )
    prefix_tokens: Annotated[int, Field(strict=True, ge=128, le=1500)] = Field(
        description="tokens of a shared prefix; at least 128, two of the newest picker's blocks", default=256
    )
    raise_log_level: bool = Field(
        description="true lets stage 05 restart the picker to log its choices (`-v` 4), and put the old value back",
        default=False,
    )
    kill_replica: bool = Field(
        description="true lets stage 05 kill one replica during traffic, to measure what is lost", default=False
    )


class Demand(_Section):
    """The traffic that is to be served; only the operator knows it."""

    requests_per_min: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        description="requests a minute that you expect; without it nothing is said about demand", default=None
    )
    budget_usd_per_month: Annotated[float, Field(gt=0)] | None = Field(
        description="what the GPU nodes may cost a month (USD); without it the guide's budget criteria stay open",
        default=None,
    )


class Cleanup(_Section):
    """How stage 07 ends."""

    option: Literal["scale_to_zero", "delete", "restore_pattern1"] = Field(
        description="`scale_to_zero`: keep the releases, no pods, no GPU nodes; "
        "`delete`: remove Pattern 3 and its nodes; `restore_pattern1`: go back"
    )


class Profile(_Section):
    """All parameters of a run."""

    name: Name = Field(description="name of the profile, folder of its records")
    namespace: Name = Field(description="namespace of the releases")
    approval: Literal["self", "hash"] = Field(
        description="who approves a plan that asks for it: `hash`: an operator, by the plan's hash; "
        "`self`: the profile itself, on a simulated cluster only",
        default="hash",
    )
    cluster: Cluster
    pool: Pool
    pattern1: Pattern
    pattern2: Beside | None = None
    pattern3: Pattern
    route: Route
    swap: Swap = Swap()
    load: Load = Load()
    affinity: Affinity = Affinity()
    demand: Demand = Demand()
    prices: Annotated[
        Annotated[Prices, Tag(TAG_PLAIN)] | Annotated[PriceFile, Tag(TAG_FILE)], Discriminator(prices_tag)
    ]
    cleanup: Cleanup
    _path: Path = PrivateAttr(default=Path())
    _digest: str = PrivateAttr(default="")

    @property
    def path(self) -> Path:
        """The file it was read from."""
        return self._path

    @property
    def digest(self) -> str:
        """SHA-256 of the profile's canonical JSON (RFC 8785), hexadecimal."""
        return self._digest

    def names(self, pattern: Pattern) -> tuple[str, ...]:
        """Under which model names a pattern answers, by what is announced; the first is its model's own."""
        alias = pattern == self.pattern3 and self.swap.old_name == "alias"
        return tuple(dict.fromkeys([pattern.model, *([self.pattern1.model] if alias else [])]))

    @property
    def nodes_beside(self) -> int:
        """GPU nodes that Pattern 2 holds, whatever the run does."""
        return self.pattern2.replicas if self.pattern2 else 0

    def resolve(self, reference: str) -> Path:
        """A path named in the profile: relative ones are relative to the profile's folder."""
        return (self._path.parent / reference).resolve()

    @model_validator(mode="after")
    def _fits_together(self) -> Profile:
        if self.pool.nodes < self.pattern3.replicas:
            need = f"pattern3.replicas {self.pattern3.replicas}, one GPU each"
            raise ValueError(f"pool.nodes {self.pool.nodes} is below {need}")
        if (needed := self.pool.nodes + self.nodes_beside) > self.pool.max_nodes:
            how = f"pool.nodes {self.pool.nodes} + pattern2.replicas {self.nodes_beside} = {needed}"
            raise ValueError(f"{how} > pool.max_nodes {self.pool.max_nodes}: the pool could never hold both patterns")
        if self.pattern2 and self.pattern2.gateway in (self.pattern1.gateway, self.pattern3.gateway):
            raise ValueError(f"pattern2.gateway {self.pattern2.gateway} is another pattern's: give Pattern 2 its own")
        one, other = self.pattern1.gateway, self.pattern3.gateway
        if self.route.url and one != other:
            raise ValueError(
                f"route.url is one address, and pattern1.gateway {one} and pattern3.gateway {other} are two Gateways: "
                "after the swap it would lead to the wrong one. Leave url empty, so that each Gateway's own address is "
                "taken; where only a proxy reaches these, name it in the environment variable http_proxy"
            )
        if self.pattern1.inference_pool == self.pattern3.inference_pool:
            raise ValueError("pattern1.inference_pool and pattern3.inference_pool must differ")
        if self.approval == "self" and not self.cluster.simulated:
            raise ValueError("approval self is for a simulated cluster; on a real one an operator approves by hash")
        return self


def load(reference: str) -> Profile:
    """Read and validate a profile: the name of a file in `parameters/`, or a path.

    Raises:
        ProfileError: missing file, bad YAML, unknown key, wrong type, impossible value, missing values file.
    """
    file = find(reference)
    content, lines = yaml_files.read(file, "profile", "sandbox.yaml")
    try:
        profile = Profile.model_validate(content)
    except ValidationError as error:
        raise yaml_files.explain(
            error,
            file,
            lines,
            kind="profile",
            known_keys=lambda loc: _known_keys(loc, content),
            tags=frozenset({"helm", "helmfile", TAG_FILE, TAG_PLAIN}),
            see="README, table of parameters",
        ) from None
    profile._path = file
    if isinstance(profile.prices, PriceFile):
        profile.prices.read(file.parent, PARAMETERS / "prices")
    profile._digest = hashlib.sha256(rfc8785.dumps(profile.model_dump(mode="json"))).hexdigest()
    _files_exist(profile, lines)
    return profile


def reference(path: Path) -> str:
    """What names a profile on a command line: its name in `parameters/`, else its path."""
    return path.stem if path.parent == PARAMETERS else str(path)


def find(reference: str) -> Path:
    """The profile's file.

    Raises:
        ProfileError: when there is none; the profiles that exist are named.
    """
    candidates = [Path(reference), PARAMETERS / f"{reference}.yaml", PROJECT_ROOT / reference]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    known = ", ".join(sorted(path.stem for path in PARAMETERS.glob("*.yaml"))) or "none"
    raise ProfileError(
        f"no profile {reference!r}",
        where=str(PARAMETERS),
        remedy=f"name one of: {known}; or give the path of a file",
    )


def _known_keys(loc: Loc, content: dict[str, Any]) -> list[str]:
    model: Any = Profile
    node: Any = content
    for part in loc:
        node = node[part]
        if isinstance(part, int):
            model = HelmRelease
            continue
        annotation = model.model_fields[part].annotation
        if part == "releases" and model is Pattern:
            model = HelmfileReleases if node.get("driver") == "helmfile" else HelmReleases
        elif part == "prices" and model is Profile:
            model = PriceFile if prices_tag(node) == TAG_FILE else Prices
        elif part == "pattern2":
            model = Beside
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return sorted(model.model_fields)


def _files_exist(profile: Profile, lines: dict[Loc, int]) -> None:
    of_routes: list[tuple[Loc, str]] = [(("route", "ca_file"), profile.route.ca_file)]
    if profile.pattern2:
        of_routes.append((("pattern2", "route", "ca_file"), profile.pattern2.route.ca_file))
    _exist(profile, [item for item in of_routes if item[1]], lines)
    for pattern in ("pattern1", "pattern3"):
        section = getattr(profile, pattern).releases
        named: list[tuple[Loc, str]] = []
        if isinstance(section, HelmfileReleases):
            named.append(((pattern, "releases", "file"), section.file))
        else:
            for index, release in enumerate(section.releases):
                loc: Loc = (pattern, "releases", "releases", index)
                if "://" not in release.chart:
                    named.append(((*loc, "chart"), release.chart))
                named += [((*loc, "values", n), value) for n, value in enumerate(release.values)]
        _exist(profile, named, lines)


def _exist(profile: Profile, named: list[tuple[Loc, str]], lines: dict[Loc, int]) -> None:
    for loc, reference in named:
        if not profile.resolve(reference).exists():
            raise ProfileError(
                "the profile names a file that does not exist; nothing was started",
                where=f"{profile.path}:{lines.get(loc, 1)}: {'.'.join(map(str, loc))}: {reference}",
                reason=f"looked for {profile.resolve(reference)}",
                remedy="correct the path; it is relative to the profile's folder",
            )
