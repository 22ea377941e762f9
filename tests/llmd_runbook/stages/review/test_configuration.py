"""Each judgement of the configuration, both ways and where it cannot know; on a cluster they are in end_to_end/."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib import import_module

import pytest

from llmd_runbook.clients.kubernetes import Object
from llmd_runbook.profile import PROJECT_ROOT, Profile
from llmd_runbook.stages import MODULES
from llmd_runbook.stages.review.configuration import (
    Rendered,
    judge_branch,
    judge_renders,
    judge_token,
    judge_tools,
    judge_values,
)
from llmd_runbook.stages.review.settings import QWEN, T4, cannot_hold, server_settings, unexpected
from llmd_runbook.verdicts import Check, CheckSpec, Verdict
from tests.llmd_runbook.conftest import Bench
from tests.llmd_runbook.stages.rendered import gateway, pool, servers

README_TABLE = re.compile(r"### What stage 01 reviews\n.*?\n\n(\|.*?)\n\n", re.DOTALL)
ONE, THREE = {"model": "a"}, {"model": "b"}
WORDS = ("--enable-prefix-caching", "--max-model-len=2048", "--gpu-memory-utilization=0.75", "--dtype", "half")


@pytest.fixture
def profile(bench: Bench) -> Profile:
    return bench.profile


@pytest.fixture
def found(profile: Profile) -> dict[str, Rendered]:
    """What the bench's profile names, as it should be."""
    first = [pool("one", ONE), servers("ms-x", "a", ONE, "--max-model-len=4096"), gateway("g")]
    third = [pool("three", THREE), servers("ms-y", "b", THREE, *WORDS, replicas=3), gateway("g")]
    return {
        "Pattern 1": Rendered(profile.pattern1, ["gaie-x", "ms-x"], first),
        "Pattern 3": Rendered(profile.pattern3, ["gaie-y", "ms-y"], third),
    }


def changed(found: dict[str, Rendered], *manifests: Object) -> dict[str, Rendered]:
    return {**found, "Pattern 3": replace(found["Pattern 3"], manifests=list(manifests))}


def fails(check: Check, said: str) -> None:
    assert check.verdict is Verdict.FAIL
    assert said in check.observed
    assert check.remedy


def test_what_the_profile_names_passes(found: dict[str, Rendered], profile: Profile) -> None:
    checks = [judge_renders(found), judge_branch(found), judge_values(found, profile)]
    assert [check.verdict for check in checks] == [Verdict.PASS] * 3


def test_settings_are_read_from_the_rendered_deployment(found: dict[str, Rendered]) -> None:
    settings = found["Pattern 3"].servers
    assert settings is not None
    assert (settings.models, settings.replicas, settings.gpus) == (("b",), 3, 1)
    assert (settings.cpus, settings.memory_bytes) == (2, 8 * 2**30)  # a limit without a request is one
    assert (settings.prefix_caching, settings.max_model_len, settings.dtype) == (True, 2048, "half")
    assert settings.token == ("huggingface-token", "HF_TOKEN")


def test_of_two_words_about_prefix_caching_the_last_counts() -> None:
    words = ("--enable-prefix-caching", "--no-enable-prefix-caching")
    assert server_settings(servers("m", "b", THREE, *words)).prefix_caching is False
    assert server_settings(servers("m", "b", THREE)).prefix_caching is None


@pytest.mark.parametrize(
    ("name", "said"),
    [("two", "InferencePools: two instead of three"), ("three", "Gateway other instead of g")],
)
def test_another_pool_or_gateway_than_the_profile_names(found: dict[str, Rendered], name: str, said: str) -> None:
    other = changed(found, pool(name, THREE), servers("ms-y", "b", THREE, replicas=3), gateway("other"))
    fails(judge_renders(other), said)


def test_a_configuration_that_does_not_render(found: dict[str, Rendered], profile: Profile) -> None:
    broken = {**found, "Pattern 3": Rendered(profile.pattern3, [], [], "helm failed: values.yaml: line 3")}
    fails(judge_renders(broken), "values.yaml: line 3")
    assert judge_branch(broken).verdict is Verdict.INCONCLUSIVE
    assert judge_values(broken, profile).verdict is Verdict.INCONCLUSIVE


def test_a_postfix_that_the_helmfile_does_not_know(found: dict[str, Rendered], profile: Profile) -> None:
    names = ["gaie-inference-scheduling", "ms-y"]
    assert unexpected(found["Pattern 3"].manifests, names, profile.pattern3) == [
        "release gaie-inference-scheduling does not end in -y"
    ]


def test_both_patterns_in_one_branch(found: dict[str, Rendered], profile: Profile) -> None:
    same = {**found, "Pattern 3": replace(found["Pattern 1"], pattern=profile.pattern3)}
    fails(judge_branch(same), "in common: gaie-x, ms-x, a")


@pytest.mark.parametrize(
    ("deployment", "said"),
    [
        (servers("m", "other", THREE, replicas=3), "serves other instead of b"),
        (servers("m", "b", THREE, replicas=2), "2 replicas instead of 3"),
        (servers("m", "b", THREE, "--no-enable-prefix-caching", replicas=3), "prefix caching is off"),
        (servers("m", "b", THREE, "--max-model-len", "100", replicas=3), "--max-model-len 100 is below the 257"),
    ],
)
def test_values_that_are_not_the_profiles(
    found: dict[str, Rendered], profile: Profile, deployment: Object, said: str
) -> None:
    fails(judge_values(changed(found, deployment), profile), f"Pattern 3: {said}")


def on_a_t4(profile: Profile) -> Profile:
    third = profile.pattern3.model_copy(update={"model": QWEN})
    pool_ = profile.pool.model_copy(update={"accelerator": T4})
    return profile.model_copy(update={"pool": pool_, "pattern3": third})


@pytest.mark.parametrize(
    ("words", "verdict", "said"),
    [
        (("--gpu-memory-utilization=0.75",), Verdict.PASS, "as expected"),
        (("--gpu-memory-utilization=0.8",), Verdict.FAIL, "runs out of memory as its sampler is warmed up"),
        (("--gpu-memory-utilization", "0.95"), Verdict.FAIL, "--gpu-memory-utilization 0.95, with which"),
        ((), Verdict.FAIL, "vLLM's default of 0.9 or more, with which"),
        (("--gpu-memory-utilization=0.78",), Verdict.INCONCLUSIVE, "between the 0.75 with which"),
        (("--gpu-memory-utilization=0.95", "--max-num-seqs=64"), Verdict.PASS, "as expected"),
        (("--gpu-memory-utilization=0.95", "--max-num-seqs=1k"), Verdict.FAIL, "runs out of memory"),
        (("--gpu-memory-utilization=1.2", "--max-num-seqs=64"), Verdict.FAIL, "1.2 is no share"),
        (("--gpu-memory-utilization=85%", "--max-num-seqs=64"), Verdict.FAIL, "85% is no share"),
    ],
)
def test_the_share_of_a_t4s_memory_that_the_guides_model_starts_with(
    found: dict[str, Rendered], profile: Profile, words: tuple[str, ...], verdict: Verdict, said: str
) -> None:
    t4 = on_a_t4(profile)
    deployment = servers("m", QWEN, THREE, "--max-model-len=2048", *words, replicas=3)
    third = Rendered(t4.pattern3, ["gaie-y", "ms-y"], [deployment])
    check = judge_values({**found, "Pattern 3": third}, t4)
    assert check.verdict is verdict
    assert said in check.observed


def test_the_guides_share_of_memory_is_of_its_model_on_its_gpu(found: dict[str, Rendered], profile: Profile) -> None:
    words = ("--max-model-len=2048", "--gpu-memory-utilization=0.95")
    other = changed(found, servers("m", "b", THREE, *words, replicas=3))
    assert judge_values(other, profile).verdict is Verdict.PASS
    t4 = on_a_t4(profile).model_copy(update={"pattern3": profile.pattern3})
    assert judge_values(other, t4).verdict is Verdict.PASS


@pytest.mark.parametrize("words", [(), ("--max-model-len=auto",)])
def test_a_context_length_that_the_values_do_not_tell(
    found: dict[str, Rendered], profile: Profile, words: tuple[str, ...]
) -> None:
    check = judge_values(changed(found, servers("m", "b", THREE, *words, replicas=3)), profile)
    assert check.verdict is Verdict.INCONCLUSIVE
    assert "Pattern 3: --max-model-len gives no number" in check.observed


@pytest.mark.parametrize(("word", "tokens"), [("2048", 2048), ("2k", 2000), ("2K", 2048)])
def test_a_context_length_as_vllm_reads_it(word: str, tokens: int) -> None:
    assert server_settings(servers("m", "b", THREE, f"--max-model-len={word}")).max_model_len == tokens


def test_a_t4_has_no_bfloat16(found: dict[str, Rendered], profile: Profile) -> None:
    other = changed(found, servers("m", "b", THREE, "--dtype=bfloat16", "--max-model-len=2048", replicas=3))
    t4 = profile.model_copy(update={"pool": profile.pool.model_copy(update={"accelerator": "nvidia-tesla-t4"})})
    fails(judge_values(other, t4), "bfloat16")
    assert judge_values(other, profile).verdict is Verdict.PASS


def test_several_gpus_a_replica(found: dict[str, Rendered], profile: Profile) -> None:
    deployment = servers("m", "b", THREE, replicas=3)
    deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = "2"
    fails(judge_values(changed(found, deployment), profile), "2 GPUs a replica instead of one")


def test_what_one_node_cannot_hold(found: dict[str, Rendered]) -> None:
    settings = found["Pattern 3"].servers
    assert settings is not None
    assert cannot_hold(settings, 1, 3.9, 12 * 2**30) == []
    assert cannot_hold(settings, 0, 1.9, 4 * 2**30) == [
        "1 GPUs of 0",
        "2 CPUs of 1.9",
        "8 GiB of memory of 4",
    ]


@pytest.mark.parametrize(
    ("versions", "wrong", "said"),
    [
        ({"helm": "v3.11.3"}, [], "helm v3.11.3 is too old"),
        ({"helm": "v3.18.0", "helmfile": "1.0.0"}, [], "helmfile 1.0.0 is too old"),
        ({}, ["cannot run helm: No such file"], "cannot run helm"),
    ],
)
def test_tools_that_do_not_serve(versions: dict[str, str], wrong: list[str], said: str) -> None:
    fails(judge_tools(versions, wrong), said)


def test_tools_that_serve() -> None:
    assert judge_tools({"helm": "v4.1.4", "helmfile": "1.8.0"}, []).verdict is Verdict.PASS


def test_the_token_is_there_missing_or_hidden() -> None:
    name = ("huggingface-token", "HF_TOKEN")
    assert judge_token({name: ""}).verdict is Verdict.PASS
    fails(judge_token({name: "Secret huggingface-token has no HF_TOKEN but token"}), "has no HF_TOKEN")
    hidden = judge_token({name: "?not permitted: secrets is forbidden"})
    assert hidden.verdict is Verdict.INCONCLUSIVE
    assert hidden.observed == "not permitted: secrets is forbidden"
    assert "observer" in str(hidden.remedy)
    assert judge_token({}).observed == "no replica reads a token"


def test_the_readmes_table_names_every_check_of_stage_01() -> None:
    table = README_TABLE.search((PROJECT_ROOT / "README.md").read_text())
    assert table
    names = re.findall(r"`([a-z_0-9]+\.[a-z_]+)`", table[1])
    modules = [module for module in MODULES if module.startswith("review.")]
    found = {name: import_module(f"llmd_runbook.stages.{name}") for name in modules}
    declared = [spec.id for module in found.values() for spec in vars(module).values() if isinstance(spec, CheckSpec)]
    assert sorted(names) == sorted(declared)
