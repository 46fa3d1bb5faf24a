"""Local web pages for a person: labelling recordings, watching the classifier. Imported on demand only."""
