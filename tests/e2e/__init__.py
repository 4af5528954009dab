"""The whole suite under faults, bad input and strangers: real processes, real databases, the public doors."""
