"""What a run will take, before it starts: device hours, bytes, shards, wall time and cost of every phase (docs/forecast.md)."""
