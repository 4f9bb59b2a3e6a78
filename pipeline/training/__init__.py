"""Training of an adapter: projector and LoRA of a model, on audio with texts, on any number of workers."""
