"""One small class per format of a results file, all of them streaming."""
