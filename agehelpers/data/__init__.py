"""From a folder of faces to batches: decoder, label table, split lists, pixel cache, datasets, drawn faces."""
