"""06, last part: keep, switch or scale? The stage's own load on the reference model, and the guide's criteria.

Predictions are a model's, never measurements: what was measured stands beside them.
"""

from __future__ import annotations

import gzip
from statistics import median
from typing import Any

from llmd_runbook.analysis.advice import SCALE, Answer, Criterion, Situation
from llmd_runbook.analysis.advice import advise as advice_for
from llmd_runbook.analysis.advice import criteria as to_keep_or_switch
from llmd_runbook.analysis.cost import at_most, per_million, per_month
from llmd_runbook.analysis.latency import Estimate, Refusal, Throughput
from llmd_runbook.analysis.picker_config import ConfigError, parse
from llmd_runbook.analysis.replica_model import T4_CACHE_BLOCKS, Engine
from llmd_runbook.analysis.scorers import KV_SCORER, PREFIX_SCORER, QUEUE_SCORER, Rules
from llmd_runbook.analysis.traces import PromptRequest, prompt_requests, write
from llmd_runbook.analysis.what_if import Outcome, scenarios, simulate, weights_text
from llmd_runbook.clients.metrics import CACHE_CONFIG, Scraper
from llmd_runbook.errors import NotFound, RunbookError
from llmd_runbook.run import StageRun
from llmd_runbook.run.display import Shown
from llmd_runbook.stages import figures, site, throughput_and_cost
from llmd_runbook.stages.cost import tables
from llmd_runbook.stages.load import measurement
from llmd_runbook.stages.load.measurement import Measured
from llmd_runbook.stages.throughput_and_cost import SAME_PER_REPLICA
from llmd_runbook.topology import picker, pool_view, replicas
from llmd_runbook.verdicts import Table

LOAD_FILE = "06_load.jsonl.gz"
MOST_REPLICAS = 8
GUIDE_REQUESTS_PER_MIN, GUIDE_P95_S, GUIDE_QUEUE = 150, 0.8, 10
"""The guide's "Scaling Beyond 3 Replicas": any of them exceeded."""
SEEDS = 5
"""The picker breaks ties at random, and answers of one length end together: one seed shows noise as a gain."""
GUIDE_CAPACITY_PER_MIN = 95
"""What three replicas serve by the guide's cost table."""
Row = dict[str, Any]
_SPREADS = ("requests_per_s", "queue_mean", "queue_p95", "hit_rate", "imbalance", "moves")
_GUIDE_WEIGHTS = {PREFIX_SCORER: 3.0, KV_SCORER: 2.0, QUEUE_SCORER: 2.0}
_LEAST_READINGS, _CONSISTENTLY = 10, 0.9
"""Of the queues: fewer say nothing; in so great a part of them a queue must be too long."""
_OFF = 0.25
"""Beyond this part of the measured throughput the model's values are worth no more than their shape."""


def scaling(stage: StageRun) -> Shown:
    """The prompts that this stage sent, on 1 to 8 modelled replicas behind the picker's own rules."""
    load = _load(stage)
    with stage.step("read the endpoint picker's rules and the replicas' cache size") as step:
        rules, source = _rules(stage)
        blocks, cache = _cache_blocks(stage)
        step.ok(f"{source}; {cache}")
    with stage.step(f"replay the load on 1 to {MOST_REPLICAS} modelled replicas") as step:
        requests = _requests(stage)
        file = stage.folder / LOAD_FILE
        file.write_bytes(gzip.compress("".join(write(requests)).encode(), mtime=0))
        predicted = []
        for scenario in scenarios([rules], range(1, MOST_REPLICAS + 1), [blocks]):
            found = [simulate(requests, scenario, in_flight=load.concurrency, seed=seed) for seed in range(SEEDS)]
            predicted.append(_figures(found))
            step.progress(f"{scenario.replicas} replicas", done=scenario.replicas, total=MOST_REPLICAS)
        step.ok(f"{len(requests)} requests, {load.concurrency} in flight, {SEEDS} seeds; written to {LOAD_FILE}")
    stage.data["scaling"] = predicted
    stage.note(
        "What was replayed",
        f"The load with the most requests in flight, by weights {weights_text(rules)} ({source}), "
        f"{blocks:,} cache blocks a replica ({cache}). "
        + (
            "Its prompts share nothing, so that no hit is to be found and nothing can move: replay a trace of your own "
            "traffic by `llmd-runbook routing what-if FILE`."
            if stage.profile.load.mix == "unique"
            else f"Its prompts: {measurement.recipe(stage.profile)}."
        ),
    )
    price = _node_usd(stage)
    rows: list[list[str | int | float | None]] = [
        [
            row["replicas"],
            _shown(row["requests_per_s"], 0, 60),
            _shown(row["latency_p95_s"], 2),
            _shown(row["queue_mean"], 1),
            _shown(row["queue_p95"], 0),
            _shown(row["hit_rate"], 3),
            _shown(row["imbalance"], 2),
            _shown(row["moves"], 0),
            _usd_per_million(price, row["replicas"], row["requests_per_s"][1]),
        ]
        for row in predicted
    ]
    columns = ["replicas", "requests/min", "p95 latency (s)", "waiting, mean", "waiting, p95", "hit rate"]
    columns += ["busiest / fair share", "moves", "USD per 1M requests"]
    return stage.table(
        Table(title=f"Predicted by the model: median [least, most] of {SEEDS} seeds", columns=columns, rows=rows)
    )


def plot(stage: StageRun) -> figures.Png:
    """Predicted throughput, p95 and queue over replicas, with what was measured and the guide's thresholds."""
    load, count = _load(stage), stage.profile.pattern3.replicas
    rate, tail = load.throughput, load.quantile("latency", 0.95)
    predicted: list[Row] = stage.data["scaling"]

    def curve(key: str, factor: float = 1) -> dict[int, tuple[float, float, float]]:
        low, middle, high = range(3)
        return {
            row["replicas"]: (factor * row[key][low], factor * row[key][middle], factor * row[key][high])
            for row in predicted
            if row[key] is not None
        }

    return figures.scaling(
        [
            figures.Scale(
                f"requests per minute, {load.concurrency} in flight",
                curve("requests_per_s", 60),
                (count, 60 * rate.requests_per_s) if isinstance(rate, Throughput) else None,
                GUIDE_REQUESTS_PER_MIN,
                f"guide: {GUIDE_REQUESTS_PER_MIN}/min",
            ),
            figures.Scale(
                "p95 latency (s)",
                curve("latency_p95_s"),
                (count, tail.value) if isinstance(tail, Estimate) else None,
                GUIDE_P95_S,
                f"guide: {GUIDE_P95_S:g} s",
            ),
            figures.Scale(
                "waiting at the chosen replica, p95", curve("queue_p95"), None, GUIDE_QUEUE, f"guide: {GUIDE_QUEUE}"
            ),
        ],
        stamp=stage.cluster.stamp,
    )


def advise(stage: StageRun) -> Shown:
    """The guide's criteria with what was stated or measured behind each, and what follows from capacity and demand."""
    load, count = _load(stage), stage.profile.pattern3.replicas
    predicted: dict[int, Row] = {row["replicas"]: row for row in stage.data["scaling"]}
    situation = _situation(stage)
    found = [*to_keep_or_switch(situation), *_to_scale(stage, situation, predicted[min(count, MOST_REPLICAS)])]
    rows: list[list[str | int | float | None]] = [
        [one.speaks_for, one.says, one.known, str(one.answer), one.why] for one in found
    ]
    advice = advice_for(situation)
    stage.data["advice"] = advice.choice
    simulated = (
        " Capacity is a simulated engine's: an exercise, no advice for a real cluster." if stage.simulated else ""
    )
    stage.note("The advice", f"{advice.choice[0].upper()}{advice.choice[1:]}: {advice.why}.{simulated}")
    stage.note("The guide's first criterion to scale contradicts its own capacity", _contradiction())
    stage.note("Four and five replicas, as the model predicts", _more(stage, load.throughput, predicted, count))
    columns = ["speaks for", "the guide's criterion", "stated or measured", "verdict", "what that says"]
    return stage.table(Table(title="Keep, switch or scale", columns=columns, rows=rows))


def _situation(stage: StageRun) -> Situation:
    profile = stage.profile
    one, three = throughput_and_cost.hourly_usd(stage)
    capacity1, capacity3 = tables.capacities(stage)
    return Situation(
        demand_per_min=profile.demand.requests_per_min,
        budget_usd_per_month=profile.demand.budget_usd_per_month,
        pattern1_usd_per_month=per_month(one),
        pattern3_usd_per_month=per_month(three),
        capacity1_per_s=capacity1,
        capacity3_per_s=capacity3,
        speed_up=throughput_and_cost.speed_up(stage),
        replicas=profile.pattern3.replicas,
        prompts_share=profile.load.mix == "service",
        hit_share=_load(stage).readings.hit_share,
    )


def _to_scale(stage: StageRun, situation: Situation, here: Row) -> list[Criterion]:
    """The guide's three criteria for a fourth and fifth replica."""
    load, demand = _load(stage), situation.demand_per_min
    tail = load.quantile("latency", 0.95)
    known = "no demand stated" if demand is None else f"{demand:g} requests/min stated"
    latency, why = _latency(tail, _alone_s(stage), stage.profile.load.output_tokens)
    return [
        Criterion(
            SCALE,
            f"more than {GUIDE_REQUESTS_PER_MIN} requests/min",
            f"{known}; {_measured_rate(load.throughput, load)}",
            Answer.OPEN if demand is None else Answer.MET if demand > GUIDE_REQUESTS_PER_MIN else Answer.NOT_MET,
            _capacity(load.throughput, situation.replicas),
        ),
        Criterion(
            SCALE,
            f"p95 latency above {1000 * GUIDE_P95_S:g} ms under load",
            f"{measurement.shown(tail)} s" if isinstance(tail, Estimate) else measurement.shown(tail),
            latency,
            why,
        ),
        Criterion(
            SCALE,
            f"queue depth consistently above {GUIDE_QUEUE}",
            *_queue(load),
            f"the model has {_shown(here['queue_mean'], 1)} waiting on average",
        ),
    ]


def _queue(load: Measured) -> tuple[str, Answer]:
    """What the replicas said of their queues, and whether one was longer than the guide wants nearly all the time."""
    rate = load.throughput
    if isinstance(rate, Refusal):
        return f"not measured: {rate.reason}", Answer.OPEN
    queues = load.readings.queues(rate.start_s, rate.start_s + rate.window_s)
    if len(queues) < _LEAST_READINGS:
        return f"not measured: {load.readings.trouble or f'{len(queues)} readings'}", Answer.OPEN
    share = sum(queue > GUIDE_QUEUE for queue in queues) / len(queues)
    answer = Answer.MET if share >= _CONSISTENTLY else Answer.NOT_MET if share <= 1 - _CONSISTENTLY else Answer.OPEN
    said = f"longest queue of a replica: median {median(queues):.0f}, most {max(queues):.0f}, n={len(queues)}"
    return f"{said}; above {GUIDE_QUEUE} in {share:.0%}", answer


def _measured_rate(rate: Throughput | Refusal, load: Measured) -> str:
    if isinstance(rate, Refusal):
        return f"none served: {rate.reason}"
    return f"{60 * rate.requests_per_s:.0f} served, {load.concurrency} in flight, n={rate.completed}"


def _capacity(rate: Throughput | Refusal, count: int) -> str:
    if isinstance(rate, Refusal):
        return "nothing"
    share = GUIDE_REQUESTS_PER_MIN / (60 * rate.requests_per_s)
    if share > 1:
        return f"{count} replicas do not serve the guide's {GUIDE_REQUESTS_PER_MIN}: scale before"
    return f"the guide's {GUIDE_REQUESTS_PER_MIN} are {share:.0%} of what {count} replicas serve: no reason to scale"


def _latency(tail: Estimate | Refusal, alone_s: float, tokens: int) -> tuple[Answer, str]:
    """Whether the criterion is met, and what that says; a threshold below one answer alone is no reason to scale."""
    floor = f"one answer of {tokens} tokens alone takes {alone_s:.1f} s in the model"
    answer = Answer.OPEN
    if isinstance(tail, Estimate):
        below = at_most(GUIDE_P95_S, tail)
        answer = Answer.OPEN if below is None else Answer.MET if below else Answer.NOT_MET
    if alone_s > GUIDE_P95_S:
        return answer, f"nothing about replicas: {floor}, so that no number of them gets below"
    if isinstance(tail, Refusal):
        return answer, f"nothing; {floor}"
    said = {
        Answer.MET: "a reason to scale",
        Answer.NOT_MET: "no reason to scale",
        Answer.OPEN: f"the interval holds {GUIDE_P95_S:g} s",
    }
    return answer, f"{said[answer]}; {floor}"


def _contradiction() -> str:
    """Facts: capacity of three replicas by the guide's cost table, traffic at which it would scale."""
    capacity = GUIDE_CAPACITY_PER_MIN
    return (
        f"The guide's own capacity of three replicas is {capacity:g} requests a minute. At the "
        f"{GUIDE_REQUESTS_PER_MIN} at which it scales, they would be asked for {GUIDE_REQUESTS_PER_MIN / capacity:.2f} "
        f"times that, and the queue would grow by {GUIDE_REQUESTS_PER_MIN - capacity:g} requests every minute. By its "
        f"own figures the time to scale is before {capacity:g}. Compare your traffic with the throughput measured here."
    )


def _more(stage: StageRun, rate: Throughput | Refusal, predicted: dict[int, Row], count: int) -> str:
    if count not in predicted:
        return f"The model was asked for at most {MOST_REPLICAS} replicas, and this pattern has {count}."
    price = _node_usd(stage)

    def said(number: int) -> str:
        row = predicted[number]
        cost = _usd_per_million(price, number, row["requests_per_s"][1])
        tail = "" if row["latency_p95_s"] is None else f", p95 {_shown(row['latency_p95_s'], 2)} s"
        rate_per_min = _shown(row["requests_per_s"], 0, 60)
        return f"{number} replicas: {rate_per_min} requests/min{tail}, {cost} USD per 1M requests"

    text = "; ".join(said(number) for number in sorted({count, 4, 5}))
    text += f" (median [least, most] of {SEEDS} seeds). Where the ranges overlap the model sees no gain. "
    text += "These are predictions of a model for the same requests in flight, not measurements. "
    if isinstance(rate, Refusal):
        text += f"Nothing was measured to compare the model with: {rate.reason}."
    else:
        ratio = predicted[count]["requests_per_s"][1] / rate.requests_per_s
        text += f"For {count} replicas the model says {ratio:.2f} times the throughput that was measured"
        text += ": read its shape, not its values." if abs(ratio - 1) > _OFF else "."
    return text + (f" No GPU was measured here: {stage.cluster.stamp}." if stage.simulated else "")


def _load(stage: StageRun) -> Measured:
    return throughput_and_cost.load(stage, SAME_PER_REPLICA)


def _node_usd(stage: StageRun) -> float:
    """Dollars an hour for one more node such as Pattern 3's are."""
    return throughput_and_cost.hourly_usd(stage)[1] / stage.profile.pattern3.replicas


def _requests(stage: StageRun) -> list[PromptRequest]:
    """The very requests of the load with the most in flight; in a closed loop all are due at once."""
    profile, scale = stage.profile, stage.profile.pattern3.replicas
    in_flight = profile.load.concurrency * scale
    sent = measurement.prompts(profile, in_flight, seed=_load(stage).seed, scale=scale)
    return prompt_requests(
        profile.pattern3.model,
        [f"{prompt.system} {prompt.text}" if prompt.system else prompt.text for prompt in sent],
        output_tokens=profile.load.output_tokens,
        arrivals_s=[0.0] * len(sent),
    )


def _rules(stage: StageRun) -> tuple[Rules, str]:
    """The picker's rules as its ConfigMap says, else the guide's; and which of them."""
    profile = stage.profile
    try:
        kube = site.kubernetes(profile)
        pool = pool_view(kube, profile.namespace, profile.pattern3.inference_pool)
        if pool is None:
            raise NotFound(f"there is no InferencePool {profile.pattern3.inference_pool}")
        found = picker(kube, profile.namespace, pool)
        return parse(found.config_text).rules(), f"ConfigMap {found.config_map}"
    except (RunbookError, ConfigError) as error:
        reason = str(error).splitlines()[0]
        stage.note("The picker's own rules could not be used", f"{reason}. The model has the guide's weights instead.")
        return Rules.v0_4(_GUIDE_WEIGHTS), "the guide's weights"


def _cache_blocks(stage: StageRun) -> tuple[int, str]:
    """The smallest cache that a replica reports (blocks), else a T4's; and which of them."""
    profile = stage.profile
    try:
        kube = site.kubernetes(profile)
        pool = pool_view(kube, profile.namespace, profile.pattern3.inference_pool)
        pods = [item.manifest for item in replicas(kube, profile.namespace, pool) if item.ready] if pool else []
        scraper = Scraper(kube, pool.target_port if pool else 0)
        said = [scraper.scrape(pod).labels(CACHE_CONFIG).get("num_gpu_blocks", "") for pod in pods]
    except RunbookError:
        said = []
    blocks = [int(text) for text in said if text.isdigit() and int(text) > 0]
    return (min(blocks), "as the replicas report") if blocks else (T4_CACHE_BLOCKS, "assumed: a T4's")


def _alone_s(stage: StageRun) -> float:
    """How long one request alone takes in the model (s)."""
    request = _requests(stage)[0]
    engine = Engine()
    step_s = engine.step_s + engine.step_s_per_sequence
    return request.prompt_tokens * engine.prefill_s_per_token + request.output_tokens * step_s


def _figures(outcomes: list[Outcome]) -> Row:
    """Least, median and most of each figure over the seeds; None where the load is too small for one."""
    tails = [outcome.latency_p95_s for outcome in outcomes if outcome.latency_p95_s is not None]
    return {
        "replicas": outcomes[0].scenario.replicas,
        "latency_p95_s": _spread(tails) if tails else None,
        **{key: _spread([getattr(outcome, key) for outcome in outcomes]) for key in _SPREADS},
    }


def _spread(values: list[float]) -> list[float]:
    return [float(min(values)), float(median(values)), float(max(values))]


def _shown(spread: list[float] | None, digits: int, factor: float = 1) -> str:
    if spread is None:
        return "too few requests"
    low, middle, high = (f"{factor * value:.{digits}f}" for value in spread)
    return middle if low == high else f"{middle} [{low}, {high}]"


def _usd_per_million(usd_per_hour: float, count: int, rate_per_s: float) -> float | None:
    if rate_per_s <= 0:
        return None
    return round(per_million(count * usd_per_hour, Estimate(rate_per_s, None, None, 1, "predicted")).value, 2)
