"""The training of a trial: models, schedules, the loop, fidelities, and exact pauses."""
