"""Pictures to local descriptors at every scale of the pyramid, computed or kept."""
