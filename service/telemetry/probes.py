"""The paths that machines ask every few seconds: open without a key, logged at debug level, and without a span.

A proxy keeps them from the world.
"""

PROBES = frozenset({"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
