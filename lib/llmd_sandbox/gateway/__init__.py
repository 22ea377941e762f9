"""The gateway: Envoy, and the controller that turns Gateway and HTTPRoute into its configuration."""
