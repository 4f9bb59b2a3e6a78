"""The recogniser: features, encoder, projector, backbone, head, sampler, engine. Imports no ray."""
