"""The paper's tables as DVC experiments, and their results."""
