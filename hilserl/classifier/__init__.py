"""The reward classifier: where its pictures come from, how it is trained, judged and asked."""
