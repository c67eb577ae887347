"""Pictures of runs. Each has its own canvas, without pyplot: any thread may draw, and equal input gives equal bytes."""
