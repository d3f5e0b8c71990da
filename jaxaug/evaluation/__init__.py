"""All that judges: images, predictions, differences between arms."""
