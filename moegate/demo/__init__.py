"""The demo: a simulated fleet, the gateway, load, and a table that shows what happens."""
