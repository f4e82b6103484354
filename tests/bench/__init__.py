"""Figures: what the product costs, as ratios against a reference that is measured alternately in the same run."""
