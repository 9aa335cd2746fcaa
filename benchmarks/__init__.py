"""Measurements against the real peers. `make bench` runs them all, `make bench NAME=checkout` one."""
