"""What stays up: Ray Serve applications. `serve run services.segmentation:build` serves the champion of a model."""
