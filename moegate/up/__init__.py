"""`moegate up`: one vLLM server and the gateway before it, started and ended together."""
