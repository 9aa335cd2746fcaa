"""From the results to docs/benchmarks.md: the text is page.md, everything in it that is a figure comes from here."""
