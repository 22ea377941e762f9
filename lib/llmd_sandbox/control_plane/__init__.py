"""The real kube-apiserver, etcd, controller-manager and scheduler: found or built, started, kept running."""
