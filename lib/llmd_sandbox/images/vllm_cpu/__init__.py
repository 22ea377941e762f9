"""The real vLLM in the place of a GPU pod's: on CPU, with a tiny model of random weights under the asked name."""

VERSION = "0.32.0"
"""The vLLM that `requirements.lock` installs."""
