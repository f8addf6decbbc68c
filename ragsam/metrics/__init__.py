"""Pure functions on arrays that tell how well a segmentation agrees with its reference."""
