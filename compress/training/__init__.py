"""What fine-tuning and adapters share: examples to batches, the loss, the loop, its states and its log."""
