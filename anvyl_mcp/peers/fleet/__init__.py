"""`Fleet.call`: targets, circuit breaker, rate, version skew."""
