"""The demo: a simulated fleet, the gateway, load, and a live table."""
