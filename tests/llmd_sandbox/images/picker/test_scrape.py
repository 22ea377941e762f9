from __future__ import annotations

import pytest

from llmd_runbook.analysis.scorers import Endpoint
from llmd_sandbox.images.picker.scrape import Series, read

SERIES = Series("vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "vllm:cache_config_info")
PAGE = b"""
# HELP vllm:num_requests_waiting Number of requests waiting.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting_by_reason{reason="}"} 99.0
vllm:num_requests_waiting{engine="0",model_name="a } b"} 7.0
vllm:num_requests_waiting{engine="1",model_name="m"} 8.0
vllm:kv_cache_usage_perc 0.25
vllm:cache_config_info{block_size="32",enable="True",num_gpu_blocks="16384"} 1.0"""


def test_the_first_sample_of_each_family_is_taken() -> None:
    endpoint = Endpoint("p")
    read(PAGE, SERIES, endpoint)
    assert endpoint == Endpoint("p", waiting=7, kv_usage=0.25, block_size=32, num_blocks=16384)


def test_what_is_missing_keeps_its_value() -> None:
    endpoint = Endpoint("p", waiting=3, kv_usage=0.5, block_size=16, num_blocks=40)
    read(b'\nvllm:cache_config_info{block_size="None"} 1.0\n', SERIES, endpoint)
    assert endpoint == Endpoint("p", waiting=3, kv_usage=0.5, block_size=16, num_blocks=40)


def test_a_value_that_is_no_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="could not convert"):
        read(b"\nvllm:num_requests_waiting x\n", SERIES, Endpoint("p"))
