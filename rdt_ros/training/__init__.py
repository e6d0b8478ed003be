"""From folders of episodes to batches: data sets, samples, augmentation, statistics, the loader."""
