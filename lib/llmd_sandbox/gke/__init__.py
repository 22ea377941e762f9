"""The methods of container.googleapis.com that a runbook for node pools needs, over REST."""
