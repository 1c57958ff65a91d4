"""In-process implementation of `SchedulerPort`: core, clock, meter, limits and budgets."""
