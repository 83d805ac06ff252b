"""Training: the loop, optimisers and schedules, logging."""
