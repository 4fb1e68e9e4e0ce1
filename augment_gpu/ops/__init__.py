"""The ops: for each its parameters, its sampler, its plain-torch reference, and the op itself."""
