import pytest

from llmd_sandbox.images.vllm.args import Config, cache_labels, parse
from llmd_sandbox.images.vllm.errors import ConfigError

PATTERN_3 = [
    *("vllm", "serve", "Qwen/Qwen2.5-3B-Instruct", "--port", "8000", "--max-model-len", "2048"),
    *("--gpu-memory-utilization=0.75", "--enable-prefix-caching", "--disable-uvicorn-access-log"),
    *("--dtype", "half", "--enable-prompt-tokens-details", "--trust-remote-code", "--swap-space=4"),
]


def refused(*words: str) -> str:
    with pytest.raises(ConfigError) as error:
        parse(["vllm", "serve", *words])
    return str(error.value)


def test_the_words_of_the_guides_pod() -> None:
    config = parse(PATTERN_3)
    assert config.model_name == "Qwen/Qwen2.5-3B-Instruct"
    assert config.served_names == ("Qwen/Qwen2.5-3B-Instruct",)
    assert (config.port, config.max_model_len, config.dtype) == (8000, 2048, "float16")
    assert config.enable_prefix_caching
    assert config.prompt_tokens_details
    assert not config.access_log
    assert config.max_num_seqs == 256


@pytest.mark.parametrize(
    "words",
    [
        ["--gpu_memory_utilization", "0.85", "--model", "Qwen/Qwen2.5-3B"],
        [
            "python3",
            "-m",
            "vllm.entrypoints.openai.api_server",
            "--gpu-memory-utilization=.85",
            "--model=x-3B",
        ],
    ],
)
def test_underscores_and_the_older_entry_point(words: list[str]) -> None:
    assert parse([*words, "--max-model-len=2k"]).gpu_memory_utilization == 0.85


@pytest.mark.parametrize(("text", "tokens"), [("2k", 2000), ("2K", 2048), ("1.5k", 1500), ("512", 512)])
def test_human_readable_lengths(text: str, tokens: int) -> None:
    assert parse(["vllm", "serve", "m", "--max-model-len", text]).max_model_len == tokens


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--enable-prefix-cachin"], "unrecognized arguments: --enable-prefix-cachin"),
        (["--max-model-len", "long"], "argument --max-model-len: invalid"),
        (["--dtype", "int8"], "argument --dtype: invalid choice: 'int8'"),
    ],
)
def test_what_vllm_does_not_know_ends_with_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parse(["vllm", "serve", "m", *words])
    assert end.value.code == 2
    assert f"vllm: error: {message}" in capsys.readouterr().err


def test_a_t4_has_no_bfloat16() -> None:
    assert "Your Tesla T4 GPU has compute capability 7.5" in refused("m", "--dtype", "bfloat16")


def test_a_context_longer_than_the_models_needs_a_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["google/gemma-2b-it", "--max-model-len", "16384"]
    assert "max_model_len (16384) is greater than the derived max_model_len" in refused(*words)
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1")
    assert parse(["vllm", "serve", *words]).max_model_len == 16384


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["Qwen/Qwen2.5-3B", "--gpu-memory-utilization", "0.4"], "No available memory for the cache blocks"),
        (["Qwen/Qwen2.5-3B", "--gpu-memory-utilization", "0.47"], "the estimated maximum model length is"),
        (
            ["Qwen/Qwen2.5-3B", "--gpu-memory-utilization", "1.2"],
            "GPU memory utilization must be less than 1.0",
        ),
        (["Qwen/Qwen2.5-3B", "--num-gpu-blocks-override", "8"], "8 KV blocks of 16 tokens cannot hold"),
        (["mistralai/Mistral-7B-v0.1", "--gpu-memory-utilization", "0.9"], "No available memory"),
        (["meta/Llama-70B"], "CUDA out of memory"),
        (["m", "-tp", "2"], "World size (2) is larger than the number of available GPUs (1)"),
    ],
)
def test_what_does_not_fit_is_refused(words: list[str], message: str) -> None:
    assert message in refused(*words)


def labels(*words: str) -> dict[str, str]:
    config: Config = parse(["vllm", "serve", "Qwen/Qwen2.5-3B-Instruct", "--max-model-len=2048", *words])
    return cache_labels(config)


def test_cache_labels_name_the_memory_fraction_and_whether_prefixes_are_cached() -> None:
    shown = labels("--gpu-memory-utilization", "0.75", "--no-enable-prefix-caching", "--block-size", "32")
    assert shown["enable_prefix_caching"] == "False"
    assert shown["gpu_memory_utilization"] == "0.75"
    assert shown["block_size"] == "32"
    assert int(shown["num_gpu_blocks"]) * 32 == int(shown["kv_cache_size_tokens"])
    assert labels()["enable_prefix_caching"] == "True"


@pytest.mark.parametrize(("utilization", "tokens"), [("0.75", 121_000), ("0.85", 164_000)])
def test_kv_tokens_of_qwen_on_a_t4(utilization: str, tokens: int) -> None:
    shown = labels("--gpu-memory-utilization", utilization)
    assert int(shown["kv_cache_size_tokens"]) == pytest.approx(tokens, rel=0.01)


def test_what_was_given_is_shown_as_vllm_shows_it() -> None:
    shown = parse(PATTERN_3).non_default
    assert shown["model"] == "Qwen/Qwen2.5-3B-Instruct"
    assert shown["gpu_memory_utilization"] == 0.75
    assert "enable_prefix_caching" not in shown  # it is the default
