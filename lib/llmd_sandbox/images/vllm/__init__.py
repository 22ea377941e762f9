"""A stand-in for a vLLM server on one NVIDIA T4: same command line, HTTP, metrics and logs; simulated tokens.

`python -m llmd_sandbox.images.vllm vllm serve MODEL ...`
"""

VERSION = "0.11.2+llmd.sandbox"
"""The vLLM whose surface this follows, marked as ours."""
