"""The pool's pure half: no clock, no I/O, no driver, no thread. Whoever calls it holds the pool's lock."""
