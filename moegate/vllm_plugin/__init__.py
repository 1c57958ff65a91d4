"""`moegate-vllm`: tells the gateway every step and every finished request of a vLLM server.

vLLM loads `stat_logger` (entry point group `vllm.stat_logger_plugins`) and `route` (flag
`--middleware`). Nothing in the gateway imports them. `feed` is what both share; the simulated vLLM
serves it too.
"""
