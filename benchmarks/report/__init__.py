"""From the results to docs/benchmarks.md: the text is page.md, and every figure in it comes from here."""
