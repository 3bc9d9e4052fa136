"""Training: data, schedules, optimisers and the recipe of the packaged model."""
