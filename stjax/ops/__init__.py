"""Pure functions of arrays: the mathematics of stjax. No parameters, no Flax, no input or output."""
