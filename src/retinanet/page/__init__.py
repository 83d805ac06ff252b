"""The self-contained HTML page that doctor and report share: one template, one look."""
