"""Generated from proto/hilserl/v1/learner.proto by scripts/generate_proto.py. Do not edit."""
