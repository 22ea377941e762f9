"""The guide, section by section: which stage does it, which checks hold it, which tests show that.

`tests/data/guide_headings.txt` has the guide's own headings, in its order. Each has a row here, or a reason why nothing
is to be done for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmd_runbook.profile import PROJECT_ROOT

HEADINGS = PROJECT_ROOT / "tests" / "data" / "guide_headings.txt"


@dataclass(frozen=True)
class Section:
    """What holds a section of the guide.

    Attributes:
        stages: of the runbook.
        checks: their ids; the tests in which they do not pass are added by themselves.
        tests: node ids of more tests.
        differs: where the guide errs or this runbook does otherwise.
    """

    stages: str
    checks: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    differs: str = ""


def _section(stages: str, checks: str, *tests: str, differs: str = "") -> Section:
    return Section(stages, tuple(checks.split()), tests, differs)


_E2E, _UNIT = "tests/end_to_end", "tests/llmd_runbook"
_MODEL_SERVICE = "ModelService"
_CLAIMS = f"{_UNIT}/stages/cost/test_claims.py::test_every_claim_stands_with_its_measurement_and_verdict"
_COST = f"{_UNIT}/stages/cost/test_tables.py::test_costs_follow_from_throughput_and_price"
_OPTIONS = f"{_UNIT}/stages/cost/test_tables.py::test_every_option_has_a_price_and_what_it_rests_on"
_ADVICE = f"{_UNIT}/stages/cost/test_advice.py::test_each_criterion_of_the_guide_stands_beside_what_was_measured"
_VALUES = f"{_UNIT}/stages/review/test_configuration.py"
_GROWS = (
    f"{_E2E}/test_pool_modes.py::test_pods_that_wait_make_the_pool_grow",
    f"{_E2E}/test_pool_modes.py::test_the_autoscaler_gets_room_and_takes_what_is_idle",
)
_PART = "only the heading of the sections below it"

SECTIONS: dict[str, Section | str] = {
    "# llm-d Pattern 3: N/S-Caching Scale-Out Deployment on NVIDIA GPUs": "the title",
    "## Overview": _section("06", "throughput.gain", _CLAIMS),
    "### What is Pattern 3?": _section("04", "verify.replicas verify.prefix_caching verify.weights"),
    "### Architecture Overview": "a diagram",
    "## Prerequisites": _PART,
    "### Existing Infrastructure": _section(
        "01",
        "pool.present pattern1.releases gateway.programmed token.secret pattern2.before",
        differs="stages 02 to 07 ask Pattern 2, where the profile has one; the monitoring stack is not looked for: no "
        "step needs it",
    ),
    "### Required Tools": _section("01", "tools.versions", differs="gcloud and kubectl are not needed"),
    "### Verify Current State": _section(
        "01, 02",
        "pool.present pool.autoscaling pattern1.ready",
        differs=f"{_MODEL_SERVICE}: no release of the chart llm-d-modelservice has such a kind, and `kubectl get "
        "modelservice` is an error in every section of the guide that names it; what it is asked for stands in the "
        "Deployment and the InferencePool, which the checks read",
    ),
    "## Pattern 3 vs Pattern 1 Comparison": _PART,
    "### Key Differences": _section(
        "01, 06", "configuration.values configuration.branch comparison.same_load", _CLAIMS
    ),
    "### Configuration Differences": _section(
        "01",
        "configuration.values configuration.branch",
        f"{_VALUES}::test_values_that_are_not_the_profiles",
        f"{_VALUES}::test_the_share_of_a_t4s_memory_that_the_guides_model_starts_with",
        f"{_VALUES}::test_a_context_length_that_the_values_do_not_tell",
        differs="prefix caching is on in Pattern 1 too, by vLLM's default, and without the flag in Pattern 3; stage 04 "
        "reads it from the engines",
    ),
    "## Why Replace Pattern 1 with Pattern 3?": _PART,
    "### Use Case Analysis": _section(
        "06", "", f"{_UNIT}/stages/cost/test_advice.py::test_the_advice_follows_from_demand_and_measured_capacity"
    ),
    "### ROI Calculation": _section("06", "comparison.same_load throughput.gain", _CLAIMS, _COST),
    "## GPU Configuration Details": _PART,
    "### NVIDIA T4 GPU Specifications": "a data sheet; that nodes offer such GPUs is Step 3's",
    "### GPU vs TPU Configuration": _section(
        "06", "", _OPTIONS, _CLAIMS, differs="its TPU prices are compared; no TPU is set up, by the guide either"
    ),
    "### Qwen2.5-3B-Instruct Model Details": _section("01, 04", "configuration.values pool.fits verify.models"),
    "## Deployment Guide": _PART,
    "### Step 1: Review Current State": _section(
        "01",
        "pool.present pool.capacity pool.quota pool.fits pattern1.releases pattern1.ready pattern1.route "
        "gateway.programmed permissions.read permissions.change baseline.answers baseline.samples",
    ),
    "### Step 2: Verify Configuration Files": _section(
        "01", "configuration.renders configuration.branch configuration.values patterns.selectors owners.none"
    ),
    "### Step 3: Scale GPU Node Pool": _section(
        "02",
        "pool.autoscaling pool.size pool.allocatable pool.grows pattern2.before pattern2.after",
        *_GROWS,
        f"{_E2E}/test_pattern2.py::test_pattern_2_stays_through_swap_and_cleanup",
        f"{_E2E}/test_pool_modes.py::test_a_resize_gives_both_zones_the_same_and_holds_idle_nodes",
    ),
    "### Step 4: Remove Pattern 1 Deployment": _section(
        "03",
        "pattern1.gone swap.gap",
        "tests/cli/test_helmfile.py::test_the_guides_selector_matches_nothing_and_the_message_says_so",
        differs="the guide's selector `release=pattern1` matches no release",
    ),
    "### Step 5: Deploy Pattern 3": _section(
        "03", "pattern3.ready pattern3.route pattern3.answers gate.readiness gate.errors gate.p95 gate.affinity"
    ),
    "### Step 6: Monitor Deployment": _section(
        "03",
        "pattern3.ready rollback.serves swap.losses",
        f"{_E2E}/test_swap.py::test_a_pattern_that_never_gets_ready_goes_and_no_client_has_met_it",
        f"{_E2E}/test_waits.py::test_a_download_that_advances_passes_though_kubernetes_calls_the_rollout_failed",
        f"{_E2E}/test_misbehaving_cluster.py::test_a_route_that_lags_longer_than_the_deadline_fails",
        f"{_E2E}/test_each_check_fails_02_to_04.py::test_a_replica_that_runs_out_of_memory_as_it_starts",
        f"{_UNIT}/test_topology.py::test_trouble_in_kubernetes_own_words",
        differs="the chart has no init container: vLLM downloads the model itself",
    ),
    "### Step 7: Verify All Replicas": _section("04", "verify.replicas verify.gpus"),
    "### Step 8: Get Gateway Endpoint": _section(
        "03, 04",
        "gateway.programmed pattern3.answers verify.models",
        f"{_UNIT}/test_topology.py::test_where_clients_reach_a_gateway",
        differs="the address is the Gateway's; the Service `llm-d-gateway` does not exist",
    ),
    "## Testing Pattern 3": _PART,
    "### Test 1: Basic Inference": _section("04", "verify.answer verify.models"),
    "### Test 2: Prefix-Cache-Aware Routing": _section(
        "05",
        "affinity.prefix affinity.cache_hits affinity.explained affinity.counters",
        f"{_UNIT}/stages/routing/test_guide_tests.py::test_results_that_chance_explains_show_nothing",
        f"{_UNIT}/stages/routing/test_guide_tests.py::test_a_picker_that_scatters_equal_prompts_does_not_hold",
    ),
    "### Test 3: Load Balancing Across Replicas": _section(
        "05",
        "affinity.spread affinity.counters",
        f"{_UNIT}/stages/routing/test_guide_tests.py::test_a_skewed_router_makes_chance_likelier",
    ),
    "### Test 4: Throughput Comparison": _section(
        "06",
        "load.answers load.client load.littles_law comparison.same_load throughput.gain",
        f"{_UNIT}/stages/load/test_guide_loop.py::test_what_fifty_requests_at_once_show",
    ),
    "### Test 5: Intelligent Routing Verification": _section(
        "04, 05", "verify.weights routing.config routing.config_loaded affinity.explained"
    ),
    "## Verification Steps": _PART,
    "### Success Criteria": _section(
        "04", "verify.replicas verify.gpus verify.models verify.answer verify.prefix_caching verify.weights"
    ),
    "### Quick Verification Script": _section(
        "04",
        "verify.replicas verify.answer verify.prefix_caching",
        f"{_UNIT}/stages/test_verify.py::test_running_pods_are_not_replicas_that_serve",
        f"{_UNIT}/stages/test_verify.py::test_an_answer_has_text_and_tokens",
        f"{_UNIT}/stages/test_verify.py::test_without_a_replica_no_cache_is_on",
        differs="see [below](#the-guides-quick-verification-script)",
    ),
    "## Troubleshooting": _PART,
    "### Issue 1: Pods Stuck in Pending": _section(
        "01, 02, 03", "pool.fits pool.capacity pool.quota pool.size pool.allocatable pool.grows"
    ),
    "### Issue 2: Init Container Fails (Model Download)": _section(
        "01, 03, 04",
        "token.secret",
        f"{_E2E}/test_waits.py::test_a_server_that_ends_as_it_starts_is_given_up_with_its_own_words",
        f"{_E2E}/test_each_check_fails_02_to_04.py::test_a_replica_that_gets_no_token_to_download_its_model_with",
        f"{_E2E}/test_waits.py::test_a_download_that_says_nothing_is_given_up_with_its_last_words",
        f"{_UNIT}/test_topology.py::test_trouble_in_kubernetes_own_words",
        differs="there is no init container: vLLM downloads by itself, and a refusal (403) is told from its log; a "
        "full disk is an eviction, whose Event the wait shows, and which no test tries. The guide's own fix makes the "
        "Secret with the key `token`; the chart reads `HF_TOKEN`",
    ),
    "### Issue 3: vLLM Server Crashes (OOM)": _section(
        "01, 03, 04",
        "configuration.values gate.readiness verify.replicas",
        f"{_E2E}/test_waits.py::test_a_server_that_ends_as_it_starts_is_given_up_with_its_own_words",
        f"{_VALUES}::test_the_share_of_a_t4s_memory_that_the_guides_model_starts_with",
        f"{_E2E}/test_each_check_fails_02_to_04.py::test_a_replica_that_runs_out_of_memory_as_it_starts",
        f"{_UNIT}/test_topology.py::test_trouble_in_kubernetes_own_words",
        differs="CUDA's out of memory is the GPU's, and the container ends with 1; OOMKilled is the node's, and it "
        "ends with 137; each is told in its own words",
    ),
    "### Issue 4: Prefix Caching Not Working": _section(
        "04, 05", "verify.prefix_caching affinity.cache_hits routing.prompts routing.block_size routing.kv_metric"
    ),
    "### Issue 5: Gateway Can't Route to Pattern 3": _section(
        "01, 03, 04, 05",
        "pattern1.route pattern3.route routing.route routing.selector routing.single_picker healthcheck.policy",
        f"{_E2E}/test_each_check_fails_01.py::test_a_route_that_the_gateway_does_not_accept",
        f"{_E2E}/test_each_check_fails_02_to_04.py::test_a_route_to_pattern_3_that_the_gateway_does_not_accept",
        f"{_E2E}/test_each_check_fails_02_to_04.py::test_a_pattern_3_without_replicas",
        f"{_UNIT}/stages/review/test_state.py::test_a_route_that_does_not_carry_everything_to_pattern_1",
    ),
    "## Architecture Diagram": _PART,
    "### Network Flow": _section("03, 05", "pattern3.route routing.route verify.weights affinity.explained"),
    "### Prefix Cache Routing Example": _section(
        "05",
        "affinity.prefix affinity.spread routing.block_size",
        f"{_UNIT}/analysis/test_routing_lint.py::test_the_guides_own_prompts",
        f"{_UNIT}/analysis/scorers/test_picker.py::test_affinity_comes_with_learning_only",
        differs="its prompts fill no block, so that this picker sees no prefix in them",
    ),
    "## Cost Analysis": _PART,
    "### NVIDIA T4 GPU Pricing (us-central1)": _section(
        "06", "", f"{_UNIT}/test_prices.py::test_every_shipped_price_has_region_date_and_source", _CLAIMS
    ),
    "### Cost Comparison: Pattern 1 vs Pattern 3": _section(
        "06", "comparison.same_load throughput.gain", _COST, _CLAIMS
    ),
    "### Cost Comparison: GPU vs TPU Pattern 3": _section("06", "", _OPTIONS, _CLAIMS),
    "### Preemptible GPU Option": _section(
        "02, 07",
        "spot.pool spot.removed pool.quota",
        f"{_E2E}/test_pool_modes.py::test_a_spot_pool_comes_for_pattern_3",
        f"{_E2E}/test_pool_modes.py::test_the_spot_pool_goes_with_pattern_3",
        _OPTIONS,
        differs="spot machines, which have taken the place of preemptible ones",
    ),
    "## Cleanup Options": _section("07", "cleanup.pods cleanup.nodes spot.removed pattern2.after"),
    "### Option 1: Scale to Zero (Preserve Deployment)": _section(
        "07, 02, 03, 04",
        "cleanup.pods cleanup.nodes",
        f"{_E2E}/test_after_the_swap.py::test_to_zero_pattern_2_keeps_its_node",
        f"{_E2E}/test_after_the_swap.py::test_from_zero_it_comes_back_by_running_02_to_04_again",
        f"{_E2E}/test_after_the_swap.py::test_without_pattern_2_nothing_of_the_pool_is_left_at_zero",
        f"{_E2E}/test_after_the_swap.py::test_without_pattern_2_it_comes_back_from_no_node_and_is_deleted",
    ),
    "### Option 2: Delete Pattern 3 Deployment": _section(
        "07",
        "cleanup.pods cleanup.nodes cleanup.serves",
        f"{_E2E}/test_after_the_swap.py::test_deleted_pattern_2_keeps_its_node",
        f"{_E2E}/test_after_the_swap.py::test_without_pattern_2_it_comes_back_from_no_node_and_is_deleted",
    ),
    "### Option 3: Restore Pattern 1": _section(
        "07",
        "cleanup.pods cleanup.nodes cleanup.serves",
        f"{_E2E}/test_migration.py::test_the_end_state_is_pattern_1_and_running_again_changes_nothing",
        f"{_E2E}/test_pattern2.py::test_pattern_2_stays_through_swap_and_cleanup",
    ),
    "## Comprehensive Benchmark Suite": _section(
        "06",
        "verify.replicas affinity.prefix affinity.spread load.answers",
        f"{_UNIT}/stages/load/test_sweep.py::test_all_five_tests_are_marked_by_this_runs_checks",
        f"{_UNIT}/stages/load/test_sweep.py::test_what_failed_or_was_not_judged_gets_no_mark",
    ),
    "## Key Learnings": _PART,
    "### GPU-Specific Insights": _section("06", "", _CLAIMS, differs="its numbers are judged; the rest is advice"),
    "### Prefix Caching Benefits": _section(
        "05, 06",
        "affinity.cache_hits",
        f"{_UNIT}/stages/routing/test_affinity_evidence.py::"
        "test_warm_requests_are_told_from_cold_ones_by_the_engines_count",
        _CLAIMS,
    ),
    "### Scaling Considerations": _section("06", "throughput.gain", _ADVICE, _CLAIMS),
    "### Operational Insights": _section(
        "02, 05",
        "pool.autoscaling pool.grows failure.service_continues failure.prefixes_move failure.recovers",
        *_GROWS,
        f"{_E2E}/test_each_check_fails_05.py::test_losing_a_replica_passes",
        differs="the metrics that it names do not exist; the replicas' own are read",
    ),
    "## Next Steps": _PART,
    "### Production Readiness": _section(
        "02, 06",
        "baseline.samples pool.grows",
        *_GROWS,
        f"{_UNIT}/stages/load/test_sweep.py::test_each_level_is_measured_with_prompts_of_its_own_and_the_knee_is_named",
        differs="dashboards and alerts are not set up: the guide gives none to set up. Neither is autoscaling of "
        "replicas by their queues; 06 names the load at which latency bends, 02 shows the autoscaler of nodes",
    ),
    "### Scaling Beyond 3 Replicas": _section(
        "02, 03, 04, 06",
        "pool.size pattern3.ready verify.replicas",
        f"{_E2E}/test_after_the_swap.py::test_a_fourth_replica_comes_in_place",
        f"{_E2E}/test_after_the_swap.py::test_a_fifth_beside_pattern_2_is_refused_before_anything_is_asked",
        f"{_E2E}/test_after_the_swap.py::test_without_pattern_2_a_fifth_comes_in_place",
        _ADVICE,
    ),
    "### Additional Patterns": _section(
        "02, 03, 07",
        "pattern2.before pattern2.after",
        f"{_E2E}/test_pattern2.py::test_pattern_2_stays_through_swap_and_cleanup",
        differs="another model is other values; no larger GPU and no TPU is set up",
    ),
    "## References": "links",
}
"""Heading -> what holds its section, or why nothing is to be done for it."""


@dataclass(frozen=True)
class ScriptPart:
    """A part of the guide's quick verification script: what it is content with, and the check in its place."""

    part: str
    asks: str
    content_with: str
    check: str


SCRIPT = (
    ScriptPart(
        "1. Checking pods",
        "`grep Running` on `kubectl get pods`, three lines",
        "pods that run and are not Ready, or are about to end; as printed it finds none: no pod has its label",
        "verify.replicas",
    ),
    ScriptPart(
        "2. Checking readiness",
        "`grep -o True` on the pods' Ready conditions, three times",
        "three Ready pods of more, and a pod that ends",
        "verify.replicas",
    ),
    ScriptPart(
        "3. Testing inference",
        "`jq -e .choices[0].text` on a completion",
        "an empty text, or one without a token; as it is printed it asks a Service that does not exist",
        "verify.answer",
    ),
    ScriptPart(
        "4. Checking prefix caching",
        "`grep` for a line in the last 200 of the logs",
        "no line: it warns, and ends with success; vLLM writes that line once, at its start",
        "verify.prefix_caching",
    ),
)
