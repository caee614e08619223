"""From tables of predictions to tables of error: how large, for whom, how sure, and why."""
