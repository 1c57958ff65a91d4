"""The batch lane: offline jobs, their files, and the runner that runs their items."""
