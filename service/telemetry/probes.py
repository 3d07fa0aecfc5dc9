"""The paths that machines poll every few seconds: they need no key, are logged at debug level, and have no span.

A proxy must not expose them.
"""

PROBES = frozenset({"/healthz", "/readyz", "/metrics", "/load", "/v2/health/live", "/v2/health/ready"})
