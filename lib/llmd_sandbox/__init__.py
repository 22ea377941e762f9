"""A cluster on one machine: a real control plane, our kubelet, Envoy, and stand-ins for images."""
