from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from llmd_runbook.analysis.latency import Estimate, Refusal, Throughput
from llmd_runbook.clients.inference import Endpoint
from llmd_runbook.errors import Unreachable
from llmd_runbook.load.calibrate import ClientError
from llmd_runbook.load.fleet import FleetResult, Worker
from llmd_runbook.load.mixes import digest
from llmd_runbook.load.plan import Closed, Plan
from llmd_runbook.load.samples import Client, LoadResult, Sample
from llmd_runbook.load.watch import Readings
from llmd_runbook.run import StageRun
from llmd_runbook.stages import site
from llmd_runbook.stages.load import measurement
from llmd_runbook.stages.load.measurement import client_bound, more, restored, shown, summarised, table
from tests.llmd_runbook.conftest import Bench
from tests.llmd_runbook.stages.loads import load


def sample(index: int, *, error: str | None = None) -> Sample:
    """Two at a time, half a second each: the pair sent at 0.0, at 0.5, and so on."""
    sent_s = 0.5 * (index // 2)
    return Sample(
        index=index,
        group="",
        due_s=sent_s,
        sent_s=sent_s,
        first_token_s=None if error else sent_s + 0.1,
        gaps_s=(),
        done_s=sent_s + 0.5,
        status=None if error else 200,
        error=error,
        detail="",
        prompt_tokens=70,
        output_tokens=None if error else 10,
        cached_tokens=0,
        events=10,
        request_id=str(index),
        headers={},
    )


def result(samples: list[Sample]) -> LoadResult:
    client = Client(lag_p99_s=0.002, lag_max_s=0.01, late_p99_s=0, cpu_share=0.5)
    return LoadResult(started_s=0, duration_s=3, client=client, samples=samples)


def test_a_load_without_its_warm_up() -> None:
    found = summarised(result([sample(index) for index in range(12)]), warmup=2)
    assert (found.concurrency, found.requests, found.succeeded, found.failed) == (2, 10, 10, 0)
    assert found.latencies_s == pytest.approx([0.5] * 10)
    assert found.ttfts_s == pytest.approx([0.1] * 10)
    assert found.client_lag_p99_s == 0.002
    assert isinstance(found.throughput, Throughput)
    assert (found.throughput.requests_per_s, found.throughput.output_tokens_per_s) == (4, 40)


def test_failures_count_wherever_they_are_and_are_no_latencies() -> None:
    samples = [sample(index, error={0: "timeout", 5: "http_503", 7: "http_503"}.get(index)) for index in range(12)]
    found = summarised(result(samples), warmup=2)
    assert (found.succeeded, found.failed) == (8, 3)
    assert found.failures() == ["http_503: 2", "timeout: 1"]
    assert isinstance(found.throughput, Throughput)
    assert found.throughput.requests_per_s < 4


def test_a_load_of_failures_has_no_throughput() -> None:
    found = summarised(result([sample(index, error="connect") for index in range(12)]), warmup=2)
    assert (found.succeeded, found.failed) == (0, 12)
    assert isinstance(found.throughput, Refusal)


@pytest.mark.parametrize("made", [load(10), load(10, refused="too short", failures={"timeout": 2})])
def test_what_was_measured_survives_json(made: measurement.Measured) -> None:
    assert restored(json.loads(json.dumps(made.data()))) == made


def test_a_figure_comes_with_interval_and_sample_size_or_with_a_reason() -> None:
    assert shown(Estimate(1.23456, 1.1, 1.9, 40, "m")) == "1.235 [1.100, 1.900] n=40"
    assert shown(Estimate(1.23456, None, None, 5, "m"), 1) == "1.2 [?, ?] n=5"
    assert shown(Refusal("too few")) == "none: too few"


def test_the_table_has_a_row_a_load_and_no_percentile_that_the_data_cannot_bear() -> None:
    few = replace(load(10), latencies_s=[0.5] * 10, ttfts_s=[])
    made = table("T", {"one": load(10), "two": replace(few, throughput=Refusal("too short"))})
    assert all(len(row) == len(made.columns) for row in made.rows)
    one, two = (dict(zip(made.columns, row, strict=True)) for row in made.rows)
    assert (one["pattern"], one["in flight"], one["answers"], one["failures"]) == ("one", 20, 200, 0)
    assert (one["requests/s"], one["output tokens/s"]) == (10, 980)
    assert str(one["p95 latency (s)"]).endswith("n=200")
    assert one["p99 latency (s)"] == "none: p99 needs 299 samples, there are 200"
    assert (two["requests/s"], two["output tokens/s"]) == ("(too short)", None)
    assert str(two["p95 latency (s)"]).startswith("none: ")
    assert str(two["p50 TTFT (s)"]).startswith("none: ")


def error(latency_s: float) -> ClientError:
    return ClientError(20, 60, latency_s, latency_s, latency_s, 0.001)


def test_a_fast_client_measured_the_server(bench: Bench) -> None:
    assert client_bound(bench.profile, load(10), error(0.001)) is None


def test_a_slow_client_measured_itself(bench: Bench) -> None:
    assert client_bound(bench.profile, load(10), error(1.0))
    assert client_bound(bench.profile, replace(load(10), client_lag_p99_s=1.0), error(0.001))


def test_a_load_without_one_of_its_machines_is_another_load(bench: Bench) -> None:
    lost = replace(load(10), lost_workers=["tcp://10.0.0.2:4000 (30 requests): the scheduler has lost it"])
    said = client_bound(bench.profile, lost, error(0.001))
    assert said is not None
    assert "10.0.0.2:4000 (30 requests)" in said


def test_a_load_without_one_of_its_machines_is_not_answered_and_says_so() -> None:
    lost = replace(load(10), lost_workers=["tcp://10.0.0.2:4000 (30 requests): the scheduler has lost it"])
    assert (load(10).answered, lost.answered) == (True, None)
    assert replace(lost, failures_by_kind={"timeout": 1}).answered is False
    assert replace(load(10), latencies_s=[]).answered is False
    assert str(lost) == "200 answers, 0 failures, 1 of its workers lost"
    assert lost.failures() == ["worker lost: tcp://10.0.0.2:4000 (30 requests): the scheduler has lost it"]


def unreachable(_: object) -> None:
    raise Unreachable("no answer from the API server")


def test_no_answer_without_its_usage_is_a_throughput() -> None:
    """An answer whose tokens nobody counted would be left out unseen."""
    silent = sample(6).model_copy(update={"output_tokens": None})
    found = summarised(result([*(sample(index) for index in range(6)), silent, sample(7), sample(8)]), warmup=2)
    assert found.throughput == Refusal("the server counted no tokens in 1 of 9 answers (no usage in them)")
    assert (found.succeeded, found.tokens_per_event) == (7, None)


def test_times_between_tokens_are_kept() -> None:
    samples = [sample(index).model_copy(update={"gaps_s": (0.01, 0.03), "events": 5}) for index in range(12)]
    found = summarised(result(samples), warmup=2)
    assert found.tpots_s == pytest.approx([0.4 / 9] * 10)  # nine tokens after the first, in 0.5 s less 0.1 s
    assert found.gaps_s == pytest.approx([0.02, 0.03, 0.03])
    assert found.tokens_per_event == 2  # 10 tokens in 5 events: a gap is not one between tokens
    assert summarised(result([]), warmup=0).gaps_s == []


def test_what_went_on_inside_stands_beside_each_load() -> None:
    shared = replace(load(10), readings=replace(load(10).readings, hit_share=0.431), tokens_per_event=1.25)
    unread = replace(load(10), readings=Readings(trouble="forbidden"), ready_s={}, gaps_s=[])
    made = more("Inside", {"one": shared, "two": unread, "three": load(10).judged("INVALID (client-bound)")})
    one, two, three = (dict(zip(made.columns, row, strict=True)) for row in made.rows)
    assert str(one["p50 TPOT (ms)"]).startswith("18.6 [")  # 0.9 x 2 s / 97 tokens
    assert one["ITL p50, p95, p99 (ms)"] == "10.0, 20.0, 30.0"
    assert (one["tokens an event"], one["prefix hit rate"]) == (1.25, "43.1%")
    assert one["replicas Ready after (s)"] == "240"
    assert (two["prefix hit rate"], two["replicas Ready after (s)"]) == ("not known: forbidden", "not known")
    assert two["ITL p50, p95, p99 (ms)"] == "none: no gaps"
    assert three["p95 TPOT (ms)"] == three["ITL p50, p95, p99 (ms)"] == "none: INVALID (client-bound)"


def test_where_the_client_was_measured_there_are_no_figures() -> None:
    bound = load(10, blocks=20).judged("INVALID (client-bound)")
    refused = Refusal("INVALID (client-bound)")
    assert bound.throughput == refused
    assert {bound.quantile(of, 0.5) for of in ("latency", "ttft", "tpot")} == {refused}
    (row,) = table("title", {"one": bound}).rows
    assert row[4] == "(INVALID (client-bound))"
    assert set(row[6:]) == {"none: INVALID (client-bound)"}
    for known in ("", None):
        assert load(10).judged(known).throughput == load(10).throughput


class Machines:
    """A fleet that was measured before."""

    def __init__(self, scheduler: str) -> None:
        assert scheduler == "tcp://scheduler:8786"

    def __enter__(self) -> Machines:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    def measure(self, plan: Plan, on_progress: Callable[[str], None]) -> FleetResult:
        on_progress("0 of 2 workers have ended")
        assert plan.arrival == Closed(concurrency=2)
        gone = Worker("tcp://b:2", 6, 0.0, 0.001, "killed")
        return FleetResult(result([sample(index) for index in range(12)]), [Worker("tcp://a:1", 6, 0.0, 0.001), gone])

    def calibrate(self, **shape: float) -> ClientError:
        assert shape["concurrency"] == 2
        return error(0.25)


def test_a_profile_with_a_scheduler_measures_from_its_workers(
    bench: Bench, open_stage: Callable[[str], StageRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurement, "Fleet", Machines)
    monkeypatch.setattr(site, "kubernetes", unreachable)
    many = bench.profile.load.model_copy(update={"scheduler": "tcp://scheduler:8786"})
    profile = bench.profile.model_copy(update={"load": many})
    stage = open_stage("06_throughput_and_cost")
    with stage.step("measure") as step:
        found = measurement.measure(profile, Endpoint("http://gateway"), profile.pattern3, 2, step, seed=1)
        assert found.lost_workers == ["tcp://b:2 (6 requests): killed"]
        assert found.succeeded == 10
        assert found.readings.trouble == "no answer from the API server"
        assert measurement.client_error(profile, found, step) == error(0.25)


def test_a_profile_with_processes_measures_from_a_fleet_of_its_own(
    bench: Bench, open_stage: Callable[[str], StageRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def of_processes(count: int) -> Machines:
        asked.append(count)
        return Machines("tcp://scheduler:8786")

    monkeypatch.setattr(measurement, "of_processes", of_processes)
    monkeypatch.setattr(site, "kubernetes", unreachable)
    profile = bench.profile.model_copy(update={"load": bench.profile.load.model_copy(update={"processes": 2})})
    with open_stage("06_throughput_and_cost").step("measure") as step:
        found = measurement.measure(profile, Endpoint("http://gateway"), profile.pattern3, 2, step, seed=1)
        assert measurement.client_error(profile, found, step) == error(0.25)
    assert found.succeeded == 10
    assert asked == [2, 2]


def test_a_comparison_knows_of_the_client_what_was_judged(bench: Bench) -> None:
    few = replace(load(10), latencies_s=[0.5] * 58)
    lost = replace(few, lost_workers=["tcp://b:2 (6 requests): killed"])
    assert measurement.client_condition(bench.profile, load(10), error(0.001)) == ""
    assert "INVALID (client-bound)" in (measurement.client_condition(bench.profile, load(10), error(1.0)) or "")
    assert measurement.client_condition(bench.profile, few, error(0.001)) is None
    assert measurement.client_condition(bench.profile, load(10), Refusal("not calibrated")) is None
    assert "workers lost" in (measurement.client_condition(bench.profile, lost, error(0.001)) or "")


def test_what_cannot_be_judged_is_no_good_measurement(bench: Bench) -> None:
    assert client_bound(bench.profile, load(10), Refusal("not calibrated")) == "not calibrated"
    few = replace(load(10), latencies_s=[0.5])
    assert "samples" in (client_bound(bench.profile, few, error(0.001)) or "")


def test_a_services_mix_is_sent_where_the_profile_wants_it(bench: Bench) -> None:
    wanted = bench.profile.load.model_copy(update={"mix": "service"})
    service = bench.profile.model_copy(update={"load": wanted})
    sent = measurement.prompts(service, 20, seed=1)
    assert len(sent) == 220
    assert {prompt.group.split()[0] for prompt in sent} == {"chat", "rag", "unique"}
    assert digest(sent) == digest(measurement.prompts(service, 20, seed=1))
    assert digest(sent) != digest(measurement.prompts(service, 20, seed=2))
    longest = max(len(f"{prompt.system} {prompt.text}".split()) for prompt in sent)
    assert longest <= measurement.longest_prompt_tokens(service) == 816
    assert measurement.recipe(service).startswith("5 chat (4 shared texts of 256 tokens and 16 to 128 of their own)")
    assert measurement.recipe(bench.profile) == "unique, 70 tokens each"
    assert measurement.longest_prompt_tokens(bench.profile) == 70


@pytest.mark.parametrize(
    ("mix", "share", "cache"),
    [
        ("unique", 0.0, "cold"),
        ("unique", 0.9, "warm"),
        ("unique", None, None),
        ("service", 0.6, "cold"),
        ("service", 0.95, "warm"),
    ],
)
def test_more_hits_than_the_load_explains_mean_a_warm_cache(
    bench: Bench, mix: str, share: float | None, cache: str | None
) -> None:
    wanted = bench.profile.load.model_copy(update={"mix": mix})
    sent = measurement.prompts(bench.profile.model_copy(update={"load": wanted}), 20, seed=1)
    assert measurement.cache_state(share, sent) == cache
