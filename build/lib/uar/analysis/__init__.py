"""The paper's Figures 3 to 7, and grounding: numbers and drawings, one file per idea."""
