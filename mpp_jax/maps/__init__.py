"""Where in a picture the evidence of a classifier lies: confidence maps and the pointing game."""
