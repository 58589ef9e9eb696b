"""Values and behaviour; `reference` holds the slow twins that tests and benchmarks compare with."""
