"""Is the candidate good enough? Statistics, speed and the gate."""
