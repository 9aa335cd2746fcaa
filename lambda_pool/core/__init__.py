"""The pool's pure half: no clock, no I/O, no driver, no thread. Its callers hold the pool's lock."""
