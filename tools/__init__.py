"""For maintainers: the plan of committed records, the ablation, and what is generated from records."""
