"""The scheduler's side of its port: the core with its clock, meter, limits and budgets."""
