"""Networks, heads and the table of methods: batches in, years out."""
