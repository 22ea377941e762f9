"""Nodes, and pods as local processes: what a kubelet does, for every node of the sandbox at once."""
