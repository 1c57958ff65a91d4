"""`moegate up`: one vLLM server and the gateway in front of it, started and ended together."""
