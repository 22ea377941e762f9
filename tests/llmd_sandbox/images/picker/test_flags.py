from __future__ import annotations

import pytest

from llmd_sandbox.images.picker.flags import FlagError, Flags, parse


def test_the_charts_words() -> None:
    words = "--pool-name gaie-pattern3 --pool-namespace llm-d --zap-encoder json --config-file /config/p.yaml"
    words += " --kv-cache-usage-percentage-metric vllm:kv_cache_usage_perc -v=4 --tracing=false"
    words += " --metrics-endpoint-auth=false"
    flags = parse(words.split())
    assert flags.pool_name == "gaie-pattern3"
    assert (flags.v, flags.tracing, flags.metrics_endpoint_auth, flags.secure_serving) == (
        4,
        False,
        False,
        True,
    )
    assert flags.kv_cache_usage_percentage_metric == "vllm:kv_cache_usage_perc"


def test_defaults_and_single_dashes() -> None:
    assert parse([]) == Flags()
    assert parse(["-grpc-port", "19002", "-refresh-metrics-interval=1s500ms"]).grpc_port == 19002
    assert parse(["-refresh-metrics-interval=1s500ms"]).refresh_metrics_interval == 1.5


def test_a_word_that_is_no_flag_ends_them_as_in_go() -> None:
    flags = parse(["--secure-serving", "false", "--grpc-port", "1"])
    assert flags.secure_serving is True
    assert flags.grpc_port == 9002


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nope"], "flag provided but not defined: -nope"),
        (["--pool-name"], "flag needs an argument: -pool-name"),
        (["--grpc-port=x"], 'invalid value "x" for flag -grpc-port'),
        (["--tracing=maybe"], "invalid value"),
        (["--refresh-metrics-interval=5"], "invalid value"),
    ],
)
def test_words_that_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(FlagError, match=message):
        parse(words)
