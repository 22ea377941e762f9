"""From a request to a destination: admission, decision, counting, logging."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass

from llmd_runbook.analysis.picker_config import PickerConfig
from llmd_runbook.analysis.scorers import (
    PREFIX_SCORER,
    BadRequest,
    Decision,
    Generation,
    Picker,
    parse_request,
)
from llmd_sandbox.images.picker.datastore import Datastore
from llmd_sandbox.images.picker.event_log import DEBUG, TRACE, VERBOSE, EventLog
from llmd_sandbox.images.picker.exposition import PickerMetrics
from llmd_sandbox.images.picker.scrape import Target

STATUS = {
    "BadRequest": 400,
    "InferencePoolResourceExhausted": 429,
    "Internal": 500,
    "ServiceUnavailable": 503,
}
"""HTTP status by the picker's error codes."""


class Refusal(Exception):
    """A request that is answered by the picker itself, with the plain text that upstream's answers."""

    def __init__(self, code: str, reason: str) -> None:
        self.code = code
        self.status = STATUS[code]
        super().__init__(f"inference gateway: {code} - {reason}")


@dataclass(frozen=True)
class Choice:
    """Where a request goes and for which model."""

    destination: str
    model: str


class Director:
    """Chooses among the datastore's targets."""

    def __init__(self, config: PickerConfig, datastore: Datastore, picker: Picker, log: EventLog) -> None:
        self._config = config
        self._datastore = datastore
        self._picker = picker
        self._log = log
        self._rng = random.Random()
        self.metrics = PickerMetrics(datastore, picker)

    @property
    def targets(self) -> dict[str, Target]:
        """What may be chosen now, by endpoint name."""
        return self._datastore.targets

    def priority(self, objective: str) -> int:
        """The priority of an objective; 0 unless one of this pool says otherwise."""
        return self._datastore.priority(objective)

    def any_destination(self) -> str:
        """A random ready pod, for a request without a body.

        Raises:
            Refusal: there is none.
        """
        targets = list(self.targets.values())
        if not targets:
            raise Refusal("Internal", "no pods available in datastore")
        return self._rng.choice(targets).destination

    def choose(self, request_id: str, objective: str, body: bytes) -> Choice:
        """Decide for a request; the picker learns of it right after.

        Raises:
            Refusal: the body is unusable, there is no pod, or the request is shed.
        """
        try:
            request = parse_request(self._config.generation, body)
        except BadRequest as error:
            text = str(error)
            if text == "Error unmarshaling request body" and self._log.verbosity >= DEBUG:
                text += f": {body.decode(errors='replace')}"
            raise Refusal("BadRequest", text) from None
        targets = {target.endpoint.name: target for target in self.targets.values()}
        if not targets:
            raise Refusal("ServiceUnavailable", "failed to find candidate pods for serving the request")
        priority = self.priority(objective)
        if priority < 0 and self._saturated(list(targets.values())):
            raise Refusal("InferencePoolResourceExhausted", "system saturated, sheddable request dropped")
        started_s = time.perf_counter()
        decision = self._picker.choose(request, [target.endpoint for target in targets.values()])
        self.metrics.scheduling_s.observe(time.perf_counter() - started_s)
        if decision.hashes:
            share = decision.matched_blocks.get(decision.picked.name, 0) / len(decision.hashes)
            self.metrics.hit_ratio.observe(share)
        # Upstream learns in a goroutine of its own: a request that arrives meanwhile does not see it yet.
        asyncio.get_running_loop().call_soon(self._picker.learn, decision)
        chosen = targets[decision.picked.name]
        if self._log.verbosity >= VERBOSE:
            names = {
                "objectiveKey": objective,
                "incomingModelName": request.model,
                "targetModelName": request.model,
            }
            about = {"x-request-id": request_id, **names, "priority": priority}
            self._log_decision(decision, chosen, about, len(request.text))
        return Choice(chosen.destination, request.model)

    def _log_decision(self, decision: Decision, chosen: Target, about: dict[str, object], size: int) -> None:
        v0_4 = self._config.generation is Generation.V0_4
        if self._log.verbosity >= DEBUG:
            seen = {name: _as_logged(target, v0_4=v0_4) for name, target in self.targets.items()}
            self._log.event(
                DEBUG,
                "Before running scorer plugins",
                **about,
                **{"pods" if v0_4 else "endpoints": list(seen.values())},
            )
        for scorer, scores in decision.scores.items():
            if v0_4 and scorer == PREFIX_SCORER:
                if not decision.hashes:
                    short = {"size": size, "block size": decision.block_bytes}
                    self._log.event(DEBUG, "Request body too small for prefix cache", **about, **short)
                self._log.event(TRACE, "prefix cached state", **about, hashes=decision.hashes)
            for name, score in scores.items():
                where = {"name": name, "namespace": chosen.namespace}
                plugin = f"{self._plugin_name(scorer)}/{scorer}"
                fields = {**about, "plugin": plugin, "endpoint": where, "score": score}
                self._log.event(DEBUG, "Calculated score", **fields)
        if self._log.verbosity >= DEBUG:
            whole, part = ("pods-weighted-score", "Pod") if v0_4 else ("endpoints-weighted-score", "Endpoint")
            weighted = [{part: seen[name], "Score": total} for name, total in decision.totals.items()]
            self._log.event(DEBUG, "Candidate pods for picking", **about, **{whole: weighted})
        handled = {"targetModel": about["targetModelName"], "endpoint": chosen.destination}
        self._log.event(VERBOSE, "Request handled", **about, **handled)

    def _plugin_name(self, scorer: str) -> str:
        return next(plugin.name for plugin in self._config.plugins if plugin.type == scorer)

    def _saturated(self, targets: list[Target]) -> bool:
        limit, now_s = self._config.saturation, time.monotonic()
        return not any(
            target.updated_s
            and now_s - target.updated_s <= limit.staleness_s
            and target.endpoint.waiting <= limit.queue_depth
            and target.endpoint.kv_usage <= limit.kv_usage
            for target in targets
        )


def _as_logged(target: Target, *, v0_4: bool) -> dict[str, object]:
    """A candidate as upstream's log shows it."""
    endpoint = target.endpoint
    name = {"Namespace": target.namespace, "Name": endpoint.name}
    return {
        **({"NamespacedName": name, "PodName": target.pod} if v0_4 else {"ID": name, "Name": target.pod}),
        "Address": target.address,
        "Port": str(target.port),
        "MetricsHost": f"{target.address}:{target.metrics_port}",
        "WaitingQueueSize": endpoint.waiting,
        "KVCacheUsagePercent": endpoint.kv_usage,
        "CacheBlockSize": endpoint.block_size,
        "CacheNumGPUBlocks" if v0_4 else "CacheNumBlocks": endpoint.num_blocks,
    }
