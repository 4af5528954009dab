"""Random faults under load, replayable from a number, and what must hold whatever they were."""
