"""The runbook: stages, analysis, records. It knows nothing of the sandbox."""
