"""A server with the HTTP interface of vLLM 0.32, around the simulated engine.

`server.py` has the routes, `jobs.py` turns bodies into requests to the engine, `driver.py` steps
the engine in real time, `frames.py` and `responses.py` turn tokens into bytes.
"""
