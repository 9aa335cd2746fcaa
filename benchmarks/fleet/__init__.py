"""A fleet on one database: many environments, most of them frozen, and what becomes of those at work.

Each environment is a process of its own, frozen by SIGSTOP when its answer is in. `router.py` plays Lambda, `runs.py`
lists what is run and what it must show.
"""
