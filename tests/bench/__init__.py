"""Figures: what the product costs, as ratios against a peer that is measured in the same run, turn by turn."""
