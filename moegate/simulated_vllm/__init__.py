"""A server that looks like vLLM 0.32 from outside, around the simulated engine.

`server.py` has the routes, `driver.py` lets the engine step in real time, `intake.py` turns bodies
into requests to the engine, `frames.py` and `answers.py` turn tokens into bytes.
"""
