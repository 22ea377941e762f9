import pytest

from llmd_sandbox.images.vllm.models import T4, find, kv_memory_bytes


@pytest.mark.parametrize(
    ("name", "kv_bytes", "context"),
    [
        ("Qwen/Qwen2.5-3B-Instruct", 36_864, 32_768),
        ("google/gemma-2b-it", 18_432, 8_192),
        ("microsoft/Phi-3-mini-4k-instruct", 393_216, 4_096),
        ("microsoft/Phi-3-mini-128k-instruct", 393_216, 131_072),
        ("Qwen/Qwen3-0.6B", 114_688, 40_960),
    ],
)
def test_known_models(name: str, kv_bytes: int, context: int) -> None:
    model = find(name)
    assert model.kv_bytes_per_token("float16") == kv_bytes
    assert model.max_position_embeddings == context


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("a/Some-7B-Chat", 7e9),
        ("a/tiny-500m", 5e8),
        ("a/Model-v0.3-1.5b", 1.5e9),
        ("unsized", 3.09e9),
        ("m3big", 3.09e9),
    ],
)
def test_unknown_models_are_estimated_from_the_size_in_their_name(name: str, parameters: float) -> None:
    assert find(name).parameters == parameters


def test_float32_takes_twice_the_memory() -> None:
    model = find("google/gemma-2b-it")
    assert model.weights_bytes("float32") == 2 * model.weights_bytes("float16")
    left = kv_memory_bytes(model, T4, "float16", 0.9) - kv_memory_bytes(model, T4, "float32", 0.9)
    assert left == model.weights_bytes("float16")
