"""Clinical efficacy: the observations that generated and reference reports assert."""
