"""`python -m llmd_sandbox.images.picker`: the `epp` command."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import uvloop

from llmd_runbook.analysis.picker_config import ConfigError, parse
from llmd_runbook.analysis.scorers import Generation, Rules
from llmd_sandbox.images.picker.event_log import DEFAULT, EventLog
from llmd_sandbox.images.picker.file_as_logged import as_logged
from llmd_sandbox.images.picker.flags import FlagError, Flags
from llmd_sandbox.images.picker.flags import parse as parse_flags
from llmd_sandbox.images.picker.server import serve
from llmd_sandbox.kube import KubeApi

PREFIX_READY = {
    Generation.V0_4: "PrefixCachePlugin initialized",
    Generation.V0_10: "Prefix DataProducer initialized",
}


def main(words: list[str]) -> int:
    """Run the picker; 2 for a command line that is wrong, 1 for anything else that stops it from starting."""
    try:
        flags = parse_flags(words)
    except FlagError as error:
        print(error, file=sys.stderr)
        return 2
    log = EventLog(flags.v, flags.zap_encoder)
    try:
        _check(flags)
        text = flags.config_text or Path(flags.config_file).read_text()
        config = parse(text)
        rules = config.rules()
        api = KubeApi.from_kubeconfig(Path(flags.kubeconfig or os.environ["KUBECONFIG"]))
    except ConfigError as error:
        log.error("Failed to parse configuration", file=flags.config_file, error=str(error))
        return 1
    except (OSError, ValueError) as error:
        log.error("Failed to start", error=str(error))
        return 1
    except KeyError:
        log.error("Failed to get Kubernetes rest config", error="KUBECONFIG is not set")
        return 1
    log.speak(config.generation)
    logging.getLogger("llmd_sandbox").addHandler(_Forward(log))
    logging.getLogger("llmd_sandbox").setLevel(logging.INFO)
    message, shown = as_logged(text, config.generation)
    log.event(0, message, config=shown)
    log.event(0, "loaded configuration from file/text successfully", profile=config.profile, weights=config.weights)
    log.event(DEFAULT, PREFIX_READY[config.generation], config=_cache_settings(rules))
    uvloop.run(serve(flags, config, log, api, os.environ.get("LLMD_SANDBOX_POD_IP", "0.0.0.0")))
    return 0


class _Forward(logging.Handler):
    """What the API client has to say goes into the picker's own log."""

    def __init__(self, log: EventLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self._log.event(DEFAULT, record.getMessage())


def _cache_settings(rules: Rules) -> dict[str, object]:
    size = "blockSize" if rules.generation is Generation.V0_4 else "blockSizeTokens"
    return {
        "autoTune": rules.auto_tune,
        size: rules.block_size,
        "maxPrefixBlocksToMatch": rules.max_blocks,
        "lruCapacityPerServer": rules.lru_capacity,
    }


def _check(flags: Flags) -> None:
    if not flags.pool_name:
        raise ValueError("required pool-name flag is not set")
    if bool(flags.config_file) == bool(flags.config_text):
        raise ValueError("give one of --config-file and --config-text")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
