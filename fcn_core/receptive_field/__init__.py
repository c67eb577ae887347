"""What a unit of a network sees: by theory, by gradient, by occlusion, and the least of an image that keeps a class."""
