"""An endpoint picker that stands in for upstream's: the same flags, protocols, log lines and metrics names.

It reads its InferencePool, pods and objectives from the API server with its own ServiceAccount, scrapes every
ready pod, and tells Envoy over ext_proc which of them a request goes to, by the rules of
`llmd_runbook.analysis.scorers`.
"""
