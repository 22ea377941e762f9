import pytest

from llmd_sandbox.images.vllm_cpu.words import BLOCK_TOKENS, KV_BYTES, Translation, translate

MODEL = "Qwen/Qwen2.5-3B-Instruct"
UPSTREAM = [
    *("vllm", "serve", MODEL, "--port", "8000", "--served-model-name", MODEL),
    *("--disable-uvicorn-access-log", "--max-model-len=2048", "--gpu-memory-utilization=0.75"),
    *("--enable-prefix-caching", "--enable-prompt-tokens-details", "--dtype", "half"),
]


def translated(*more: str) -> Translation:
    return translate(["vllm", "serve", MODEL, *more], "127.9.0.1")


def value(flags: list[str], name: str) -> str:
    return flags[flags.index(name) + 1]


def test_the_upstream_pods_words_run_on_a_cpu() -> None:
    found = translate(UPSTREAM, "127.9.0.1")
    assert found.model == MODEL
    assert value(found.flags, "--served-model-name") == MODEL
    assert value(found.flags, "--host") == "127.9.0.1"
    assert value(found.flags, "--port") == "8000"
    assert value(found.flags, "--max-model-len") == "2048"
    assert value(found.flags, "--dtype") == "float32"
    assert value(found.flags, "--block-size") == str(BLOCK_TOKENS)
    assert {"--enable-prefix-caching", "--enable-prompt-tokens-details", "--enforce-eager"} <= set(found.flags)
    assert MODEL not in found.flags[: found.flags.index("--served-model-name")]


def test_what_is_left_out_is_named_with_its_value() -> None:
    assert translate(UPSTREAM, "").left_out == ["--gpu-memory-utilization", "0.75", "--dtype", "half"]
    assert translated().left_out == []
    assert translated("--tensor-parallel-size=4", "--download-dir", "/cache").left_out == [
        *("--tensor-parallel-size", "4", "--download-dir", "/cache")
    ]


def test_a_token_is_left_out_and_not_shown() -> None:
    found = translated("--hf-token", "hf_secret")
    assert found.left_out == ["--hf-token", "***"]
    assert "hf_secret" not in found.flags


def test_nothing_is_said_that_the_pod_leaves_to_vllm() -> None:
    flags = translated().flags
    assert "--enable-prefix-caching" not in flags
    assert "--port" not in flags
    assert "--enable-prompt-tokens-details" not in flags


def test_a_switch_turned_off_stays_off() -> None:
    assert "--no-enable-prefix-caching" in translated("--no-enable-prefix-caching").flags


def test_sizes_of_the_cache_are_the_pods_own_where_it_names_them() -> None:
    assert value(translated().flags, "--kv-cache-memory-bytes") == str(KV_BYTES)
    flags = translated("--block-size=64", "--kv-cache-memory-bytes=1g", "--num-gpu-blocks-override", "33").flags
    assert value(flags, "--block-size") == "64"
    assert value(flags, "--kv-cache-memory-bytes") == "1000000000"
    assert value(flags, "--num-gpu-blocks-override") == "33"


def test_another_way_to_name_the_model_and_none() -> None:
    module = ["python3", "-m", "vllm.entrypoints.openai.api_server"]
    assert translate([*module, "--model", "google/gemma-2b-it"], "").model == "google/gemma-2b-it"
    assert translate(module, "").flags[:2] == ["--served-model-name", "Qwen/Qwen3-0.6B"]


def test_the_context_is_the_asked_models() -> None:
    assert translate(["vllm", "serve", "google/gemma-2b-it"], "").max_position_embeddings == 8192
    assert translated().max_position_embeddings == 32_768


def test_several_names_are_served() -> None:
    flags = translated("--served-model-name", "a", "b").flags
    assert flags[flags.index("--served-model-name") :][1:3] == ["a", "b"]


def test_words_that_vllm_does_not_know_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        translated("--no-such-flag")
    assert caught.value.code == 2
    assert "--no-such-flag" in capsys.readouterr().err
