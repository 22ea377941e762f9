"""Advice on more replicas, from made-up loads and a picker that is there or not."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from llmd_runbook.analysis.scorers import Generation
from llmd_runbook.analysis.traces import read
from llmd_runbook.errors import Unreachable
from llmd_runbook.run import StageRun
from llmd_runbook.stages import site
from llmd_runbook.stages import throughput_and_cost as stage_06
from llmd_runbook.stages.cost import advice
from llmd_runbook.stages.load import measurement
from llmd_runbook.stages.load.measurement import Measured
from llmd_runbook.verdicts import StageResult
from tests.llmd_runbook.stages.loads import load

Open = Callable[[str], StageRun]
CONFIG = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: prefix-cache-scorer
schedulingProfiles:
- name: default
  plugins: [{pluginRef: queue-scorer, weight: 5}, {pluginRef: prefix-cache-scorer, weight: 1}]
"""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the cluster says; tests change it."""
    said: dict[str, Any] = {"config": CONFIG, "blocks": {"a": "500", "b": "400"}}

    def pods(*_: Any) -> list[SimpleNamespace]:
        return [SimpleNamespace(ready=True, manifest=name) for name in said["blocks"]]

    def scrape(pod: str) -> SimpleNamespace:
        return SimpleNamespace(labels=lambda _: {"num_gpu_blocks": said["blocks"][pod]})

    def found(*_: Any) -> SimpleNamespace:
        if said["config"] is None:
            raise Unreachable("no answer from the API server")
        return SimpleNamespace(config_map="picker-config", config_text=said["config"])

    monkeypatch.setattr(site, "kubernetes", lambda _: None)
    monkeypatch.setattr(advice, "pool_view", lambda *_: SimpleNamespace(target_port=8000))
    monkeypatch.setattr(advice, "replicas", pods)
    monkeypatch.setattr(advice, "picker", found)
    monkeypatch.setattr(advice, "Scraper", lambda *_: SimpleNamespace(scrape=scrape))
    monkeypatch.setattr(advice, "SEEDS", 2)
    return said


@pytest.fixture(autouse=True)
def small_load(bench: Any) -> Iterator[None]:
    bench.profile_file.write_text(bench.profile_file.read_text() + "load: {requests: 60, concurrency: 4}\n")
    return iter(())


def advised(open_stage: Open, measured: Measured) -> StageResult:
    stage = open_stage("06_throughput_and_cost")
    stage.data[stage_06.SAME_PER_REPLICA] = measured.data()
    advice.scaling(stage)
    advice.advise(stage)
    return stage.finish()


def rows(result: StageResult, title: str) -> list[list[Any]]:
    return next(table.rows for table in result.tables if table.title.startswith(title))


def scale(result: StageResult) -> list[list[Any]]:
    """The rows of the guide's criteria for a fourth and fifth replica."""
    return [row for row in rows(result, "Keep, switch or scale") if row[0] == "scale to 4 or 5"]


def note(result: StageResult, title: str) -> str:
    return next(note.text for note in result.notes if note.title.startswith(title))


def test_the_stages_very_prompts_go_through_the_pickers_own_rules(open_stage: Open, cluster: dict[str, Any]) -> None:
    stage = open_stage("06_throughput_and_cost")
    stage.data[stage_06.SAME_PER_REPLICA] = load(3, 12).data()
    advice.scaling(stage)
    with gzip.open(stage.folder / advice.LOAD_FILE, "rt", encoding="utf-8") as lines:
        written = [request.parsed(Generation.V0_4).text.decode() for request in read(lines)]
    sent = measurement.prompts(stage.profile, 12, seed=7, scale=3)
    assert written == [prompt.text for prompt in sent]
    assert len(written) == 60 * 3 + 12
    result = stage.finish()
    text = note(result, "What was replayed")
    assert "prefix 1, queue 5 (ConfigMap picker-config), 400 cache blocks a replica (as the replicas report)" in text
    table = rows(result, "Predicted by the model: median [least, most] of 2 seeds")
    assert [row[0] for row in table] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert table[0][5:8] == ["0.000", "1.00", "0"]  # one replica, unique prompts: no hit, even, no moves
    low, middle, _ = result.data["scaling"][0]["requests_per_s"]
    assert low == middle
    assert table[0][8] == round(1e6 / 3600 / middle, 2)  # one GPU node at 1 USD/h


@pytest.mark.parametrize("config", [None, "kind: Nonsense"], ids=["unreachable", "refused"])
def test_a_picker_that_cannot_be_read_is_said_and_replaced_by_the_guides(
    open_stage: Open, cluster: dict[str, Any], config: str | None
) -> None:
    cluster |= {"config": config, "blocks": {"a": "None"}}
    result = advised(open_stage, load(3, 12))
    assert "The model has the guide's weights instead" in note(result, "The picker's own rules could not be used")
    text = note(result, "What was replayed")
    assert "prefix 3, kv 2, queue 2 (the guide's weights), 7,600 cache blocks a replica (assumed: a T4's)" in text


def test_each_criterion_of_the_guide_stands_beside_what_was_measured(open_stage: Open, cluster: dict[str, Any]) -> None:
    result = advised(open_stage, load(3, 12))
    rate, tail, queue = scale(result)
    assert rate[2] == "no demand stated; 180 served, 12 in flight, n=120"
    assert rate[3] == "not decided"
    assert rate[4] == "the guide's 150 are 83% of what 3 replicas serve: no reason to scale"
    assert tail[2].endswith("n=120 s")
    assert tail[3] == "met"
    assert "no number of them gets below" in tail[4]  # 98 tokens at 32.5 ms are 3.2 s
    assert "takes 3.2 s in the model" in tail[4]
    assert queue[2] == "longest queue of a replica: median 0, most 0, n=20; above 10 in 0%"
    assert queue[3] == "not met"
    text = note(result, "The guide's first criterion")
    assert "capacity of three replicas is 95" in text
    assert "1.58 times" in text
    assert "grow by 55 requests every minute" in text


def test_a_pattern_below_the_guides_traffic_is_told_to_scale_before(open_stage: Open, cluster: dict[str, Any]) -> None:
    result = advised(open_stage, load(2, 12))
    assert scale(result)[0][4] == "3 replicas do not serve the guide's 150: scale before"


@pytest.mark.parametrize(
    ("latency_s", "answer", "said"),
    [
        (0.5, "not met", "no reason to scale; one answer of 8 tokens"),
        (1.5, "met", "a reason to scale"),
        (None, "not decided", "the interval holds 0.8 s"),
    ],
)
def test_short_answers_can_meet_the_guides_latency(
    open_stage: Open, cluster: dict[str, Any], bench: Any, latency_s: float | None, answer: str, said: str
) -> None:
    bench.profile_file.write_text(
        bench.profile_file.read_text().replace("requests: 60", "requests: 60, output_tokens: 8")
    )
    spread = [0.5] * 110 + [1.5] * 10 if latency_s is None else [latency_s] * 120
    result = advised(open_stage, replace(load(3, 12), latencies_s=spread))
    assert scale(result)[1][3] == answer
    assert scale(result)[1][4].startswith(said)


def test_the_model_is_compared_with_the_measurement_or_says_that_there_is_none(
    open_stage: Open, cluster: dict[str, Any]
) -> None:
    title = "Four and five replicas"
    first = note(advised(open_stage, load(3, 12)), title)
    assert "3 replicas: " in first
    assert "5 replicas: " in first
    assert "not measurements" in first
    assert "No GPU was measured here: simulated engine." in first
    assert "read its shape" not in first
    assert "read its shape, not its values" in note(advised(open_stage, load(30, 12)), title)
    refused = advised(open_stage, load(3, 12, refused="too short"))
    assert "Nothing was measured to compare the model with: too short" in note(refused, title)
    assert scale(refused)[0][2:] == ["no demand stated; none served: too short", "not decided", "nothing"]


def test_the_figure_shows_the_measurement_and_says_that_it_is_simulated(
    open_stage: Open, cluster: dict[str, Any]
) -> None:
    for measured in (load(3, 12), load(3, 12, refused="too short")):
        stage = open_stage("06_throughput_and_cost")
        stage.data[stage_06.SAME_PER_REPLICA] = measured.data()
        advice.scaling(stage)
        made = advice.plot(stage)
        assert made.data.startswith(b"\x89PNG")
        assert repr(made).endswith("[simulated engine]")


def test_a_cache_too_small_for_every_request_has_no_price(open_stage: Open, cluster: dict[str, Any]) -> None:
    cluster["blocks"] = {"a": "3"}
    result = advised(open_stage, load(3, 12))
    assert {row[8] for row in rows(result, "Predicted by the model")} == {None}
    assert rows(result, "Predicted by the model")[0][2] == "too few requests"


@pytest.mark.parametrize(
    ("demand", "choice", "answer"),
    [
        (None, "not decided", "not decided"),
        (20, "keep Pattern 1", "not met"),
        (100, "switch to Pattern 3", "not met"),
        (170, "switch to Pattern 3", "met"),
        (400, "scale beyond Pattern 3", "met"),
    ],
)
def test_the_advice_follows_from_demand_and_measured_capacity(
    open_stage: Open, cluster: dict[str, Any], bench: Any, demand: float | None, choice: str, answer: str
) -> None:
    if demand is not None:
        bench.profile_file.write_text(bench.profile_file.read_text() + f"demand: {{requests_per_min: {demand}}}\n")
    before = open_stage(stage_06.BASELINE_STAGE)
    before.data["baseline"] = load(1, 4).data()
    before.finish()
    result = advised(open_stage, load(4, 12))
    assert result.data["advice"] == choice
    text = note(result, "The advice")
    assert text.lower().startswith(choice.lower())
    assert "a simulated engine's" in text
    table = rows(result, "Keep, switch or scale")
    assert [row[0] for row in table] == ["keep Pattern 1"] * 4 + ["switch to Pattern 3"] * 5 + ["scale to 4 or 5"] * 3
    assert scale(result)[0][3] == answer
