"""Metrics and feature extractors; the stages fid and fid-stats."""
