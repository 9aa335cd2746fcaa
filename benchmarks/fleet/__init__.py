"""A fleet on one database: many environments, most of them frozen, and what happens to those at work.

Each environment is a process of its own, which SIGSTOP freezes when its answer has arrived. `router.py` plays Lambda.
`runs.py` lists the runs and what each must show.
"""
