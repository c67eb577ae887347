"""The registry of models: versions, the log of champions, and the gate between them."""
