import pytest

from llmd_sandbox.images.vllm.args import Config, parse
from llmd_sandbox.images.vllm.failing import Failure
from llmd_sandbox.images.vllm.logs import Download, phases, start


def config(*words: str) -> Config:
    return parse(["vllm", "serve", "Qwen/Qwen2.5-3B-Instruct", "--max-model-len=2048", *words])


def lines(*words: str) -> str:
    return "\n".join(message for _, _, _, message in phases(config(*words)))


def test_the_lines_that_operators_look_for() -> None:
    shown = lines("--gpu-memory-utilization=0.75", "--dtype=half")
    assert "Initializing a V1 LLM engine" in shown
    assert "enable_prefix_caching=True, chunked_prefill_enabled=True" in shown
    assert "Model loading took 5.7556 GiB" in shown
    assert "GPU KV cache size: 121,296 tokens" in shown
    assert "Maximum concurrency for 2,048 tokens per request: 59.23x" in shown


def test_what_differs_with_the_flags() -> None:
    assert "enable_prefix_caching=False" in lines("--no-enable-prefix-caching")
    assert "Falling back to torch.float16" in lines()
    assert "Falling back" not in lines("--dtype=half")
    assert "Graph capturing" not in lines("--enforce-eager")


def test_a_t4_needs_about_three_minutes() -> None:
    assert 150 < sum(wait_s for wait_s, *_ in phases(config())) < 210


def test_a_download_is_silent_and_takes_as_long_as_it_is_told() -> None:
    usual, slow = list(phases(config())), list(phases(config(), Download(900)))
    assert [line[2] for line in usual] == [line[2] for line in slow]
    (fetched,) = [line for line in slow if line[2] == "weight_utils.py"]
    assert fetched[0] == 900
    assert fetched[3].endswith(" 900.000000 seconds")


def test_a_download_that_is_shown_takes_no_longer() -> None:
    silent, shown = list(phases(config(), Download(900))), list(phases(config(), Download(900, shown=True)))
    assert sum(line[0] for line in shown) == pytest.approx(sum(line[0] for line in silent))
    bars = [message for _, _, where, message in shown if not where]
    assert bars[0].startswith("model.safetensors:   5%|          | 0.31G/6.18G [00:45<14:15, ")
    assert bars[-1].startswith("model.safetensors: 100%|██████████| 6.18G/6.18G [15:00<00:00, 6.9MB/s]")


async def test_a_start_says_that_it_is_simulated(capsys: pytest.CaptureFixture[str]) -> None:
    await start(config(), 0.0)
    first, *rest = capsys.readouterr().out.splitlines()
    assert "simulated vLLM" in first
    assert rest[0].startswith("(APIServer pid=1) INFO ")


async def test_a_bar_prints_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    await start(config(), 0.0, Download(shown=True))
    printed = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("model.safetensors: ") for line in printed) == 20


@pytest.mark.parametrize(
    ("failure", "words", "last", "never"),
    [
        (
            Failure.CUDA_OOM,
            "CUDA out of memory occurred when warming up sampler with 256 dummy requests. Please try lowering",
            "RuntimeError: Engine core initialization failed. See root cause above.",
            "Starting vLLM API server",
        ),
        (
            Failure.FORBIDDEN,
            "Cannot access gated repo for url https://huggingface.co/Qwen/Qwen2.5-3B-Instruct/resolve/main/config.json.",
            "Access to model Qwen/Qwen2.5-3B-Instruct is restricted and you are not in the authorized list.",
            "Using max model len",
        ),
    ],
)
async def test_a_start_that_fails_ends_with_the_real_engines_words(
    capsys: pytest.CaptureFixture[str], failure: Failure, words: str, last: str, never: str
) -> None:
    await start(config(), 0.0, failure=failure)
    printed = capsys.readouterr().out
    assert words in printed
    assert printed.splitlines()[-1].startswith(last)
    assert never not in printed


def test_the_sampler_is_warmed_up_with_as_many_requests_as_the_flags_say() -> None:
    given = config("--max-num-seqs=64")
    said = [message for *_, message in phases(given, failure=Failure.CUDA_OOM) if "dummy requests" in message]
    assert all("with 64 dummy requests" in message for message in said)
    assert len(said) == 2
