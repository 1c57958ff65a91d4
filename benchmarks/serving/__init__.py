"""What serving costs: CPU of the gateway for each piece of work, beside bare servers and others."""
