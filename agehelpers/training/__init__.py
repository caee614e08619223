"""From batches to weights, a history and a record of the run."""
