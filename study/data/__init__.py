"""Image sources, splits, the decoded cache, the loader and augmentation on the device."""
